//! The order in which one pass uses units, as far as it is known before routers choose.

use tiers::RowSlice;

use super::{
    Delta, Ffn, Form, GatedUnit, HeadNorm, Indexer, Indexing, Kind, LatentQuery, Layer, Linear, Projection, Rates,
    Spec, Vector,
};

impl Spec {
    /// Hands every slice that layer `index` uses whatever its router chooses to `each`, in the order of their use. Of a
    /// mixture all of them come before its experts.
    pub(crate) fn each_slice(&self, index: usize, form: Form, each: &mut dyn FnMut(&RowSlice)) {
        self.layers[index].each(form, &mut |step| match step {
            Step::Rows(slice) => each(slice),
            Step::Vector(vector) => each(&vector.slice),
        });
    }
}

/// One thing that a layer leases.
enum Step<'a> {
    Rows(&'a RowSlice),
    Vector(&'a Vector),
}

impl Layer {
    /// Every vector of this layer.
    pub(super) fn each_vector(&self, form: Form, each: &mut dyn FnMut(&Vector)) {
        self.each(form, &mut |step| {
            if let Step::Vector(vector) = step {
                each(vector);
            }
        });
    }

    fn each(&self, form: Form, each: &mut dyn FnMut(Step)) {
        let a = &self.attention;
        each(Step::Vector(&a.norm));
        match &a.kind {
            Kind::Heads(heads) => {
                for (projection, norm) in
                    [(&heads.q, &heads.q_norm), (&heads.k, &heads.k_norm), (&heads.v, &HeadNorm::None)]
                {
                    linear(projection, each);
                    if let HeadNorm::Weighted(vector) = norm {
                        each(Step::Vector(vector));
                    }
                }
                optional(heads.sinks.as_ref(), each);
            }
            Kind::Delta(net) => delta(net, each),
            Kind::Latent(latent) => {
                match &latent.query {
                    LatentQuery::Direct(matrix) => linear(matrix, each),
                    LatentQuery::LowRank { down, norm, up, indexing } => {
                        linear(down, each);
                        each(Step::Vector(norm));
                        if let Some(Indexing::Own(own)) = indexing {
                            indexer(own, form, each);
                        }
                        linear(up, each);
                    }
                }
                linear(&latent.down, each);
                each(Step::Vector(&latent.down_norm));
                linear(&latent.rotated, each);
                for first in (0..a.heads).step_by(form.group.min(a.heads)) {
                    let end = a.heads.min(first.saturating_add(form.group));
                    latent.key_rows(first, end).for_each(|slice| each(Step::Rows(&slice)));
                    latent.value_rows(first, end).for_each(|slice| each(Step::Rows(&slice)));
                }
            }
        }
        linear(&a.output, each);
        optional(a.post_norm.as_ref(), each);
        match &self.ffn {
            Ffn::Dense(dense) => {
                each(Step::Vector(&dense.norm));
                gated(&dense.unit, each);
                optional(dense.post_norm.as_ref(), each);
            }
            Ffn::Mixture(mixture) => {
                each(Step::Vector(&mixture.norm));
                linear(&mixture.router, each);
                optional(mixture.selection_bias.as_ref(), each);
                if let Some(shared) = &mixture.shared {
                    gated(&shared.unit, each);
                    if let Some(gate) = &shared.gate {
                        linear(gate, each);
                    }
                }
            }
        }
    }
}

/// Its keys are kept in every pass, its queries made where there is something to choose.
fn indexer(indexer: &Indexer, form: Form, each: &mut dyn FnMut(Step)) {
    linear(&indexer.k, each);
    each(Step::Vector(&indexer.k_norm));
    each(Step::Vector(&indexer.k_norm_bias));
    if form.selects {
        linear(&indexer.q, each);
        linear(&indexer.weights, each);
    }
}

fn linear(linear: &Linear, each: &mut dyn FnMut(Step)) {
    each(Step::Rows(&linear.weight));
    optional(linear.bias.as_ref(), each);
}

fn delta(net: &Delta, each: &mut dyn FnMut(Step)) {
    for part in &net.parts {
        linear(&part.linear, each);
        each(Step::Vector(&part.weight));
    }
    match &net.rates {
        Rates::Apart { decay, beta } => {
            projection(decay, each);
            linear(beta, each);
        }
        Rates::Together(both) => linear(both, each),
    }
    each(Step::Vector(&net.decay_bias));
    each(Step::Vector(&net.decay_rate));
    projection(&net.gate, each);
    each(Step::Vector(&net.norm));
}

fn projection(projection: &Projection, each: &mut dyn FnMut(Step)) {
    match projection {
        Projection::Direct(matrix) => linear(matrix, each),
        Projection::Narrow { down, up } => {
            linear(down, each);
            linear(up, each);
        }
    }
}

fn optional(vector: Option<&Vector>, each: &mut dyn FnMut(Step)) {
    if let Some(vector) = vector {
        each(Step::Vector(vector));
    }
}

fn gated(unit: &GatedUnit, each: &mut dyn FnMut(Step)) {
    for projection in [&unit.gate, &unit.up, &unit.down] {
        linear(projection, each);
    }
}
