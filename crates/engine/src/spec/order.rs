//! The order in which one pass uses units, as far as it is known before routers choose.

use tiers::RowSlice;

use super::{
    Delta, Ffn, Form, GatedUnit, HeadNorm, Kind, Latent, LatentQuery, Layer, Linear, Projection, Rates, Spec, Vector,
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
                heads.inputs().into_iter().for_each(|matrix| linear(matrix, each));
                for norm in [&heads.q_norm, &heads.k_norm] {
                    if let HeadNorm::Weighted(vector) = norm {
                        each(Step::Vector(vector));
                    }
                }
                optional(heads.sinks.as_ref(), each);
            }
            Kind::Delta(net) => delta(net, each),
            Kind::Latent(latent) => {
                latent_inputs(latent, form, each);
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

/// What latents, queries and an indexer's choice are made with.
fn latent_inputs(latent: &Latent, form: Form, each: &mut dyn FnMut(Step)) {
    latent.inputs(form).for_each(|matrix| linear(matrix, each));
    if let Some(indexer) = latent.indexer() {
        each(Step::Vector(&indexer.k_norm));
        each(Step::Vector(&indexer.k_norm_bias));
    }
    if let LatentQuery::LowRank { norm, .. } = &latent.query {
        each(Step::Vector(norm));
    }
    latent.queries(form).for_each(|matrix| linear(matrix, each));
    each(Step::Vector(&latent.down_norm));
}

fn linear(linear: &Linear, each: &mut dyn FnMut(Step)) {
    each(Step::Rows(&linear.weight));
    optional(linear.bias.as_ref(), each);
}

fn delta(net: &Delta, each: &mut dyn FnMut(Step)) {
    net.inputs().for_each(|matrix| linear(matrix, each));
    for part in &net.parts {
        each(Step::Vector(&part.weight));
    }
    if let Rates::Apart { decay, .. } = &net.rates {
        second(decay, each);
    }
    each(Step::Vector(&net.decay_bias));
    each(Step::Vector(&net.decay_rate));
    second(&net.gate, each);
    each(Step::Vector(&net.norm));
}

fn second(projection: &Projection, each: &mut dyn FnMut(Step)) {
    if let Some(matrix) = projection.second() {
        linear(matrix, each);
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
