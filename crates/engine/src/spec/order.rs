//! The order in which one pass uses units, as far as it is known before routers choose.

use tiers::RowSlice;

use super::{
    Attention, Delta, Ffn, Form, GatedUnit, HeadNorm, Kind, Latent, LatentQuery, Layer, Linear, Projection, Rates,
    Vector,
};

/// One thing that a block reads.
pub(crate) enum Use<'a> {
    /// Rows of a matrix.
    Matrix(&'a RowSlice),
    /// What is added to the products of a matrix.
    Bias(&'a RowSlice, &'a Vector),
    /// Any other vector.
    Vector(&'a Vector),
}

impl Layer {
    /// Every vector of this layer.
    pub(super) fn each_vector(&self, form: Form, each: &mut dyn FnMut(&Vector)) {
        let mut each = |used: Use| match used {
            Use::Matrix(_) => {}
            Use::Bias(_, vector) | Use::Vector(vector) => each(vector),
        };
        self.attention.each_use(form, &mut each);
        self.ffn.each_use(&mut each);
    }
}

impl Attention {
    /// Everything that attention in this form reads, in the order of use.
    pub(crate) fn each_use(&self, form: Form, each: &mut dyn FnMut(Use)) {
        each(Use::Vector(&self.norm));
        match &self.kind {
            Kind::Heads(heads) => {
                heads.inputs().into_iter().for_each(|matrix| linear(matrix, each));
                for norm in [&heads.q_norm, &heads.k_norm] {
                    if let HeadNorm::Weighted(vector) = norm {
                        each(Use::Vector(vector));
                    }
                }
                optional(heads.sinks.as_ref(), each);
            }
            Kind::Delta(net) => delta(net, each),
            Kind::Latent(latent) => {
                latent_inputs(latent, form, each);
                for first in (0..self.heads).step_by(form.group.min(self.heads)) {
                    let end = self.heads.min(first.saturating_add(form.group));
                    latent.key_rows(first, end).for_each(|slice| each(Use::Matrix(&slice)));
                    latent.value_rows(first, end).for_each(|slice| each(Use::Matrix(&slice)));
                }
            }
        }
        linear(&self.output, each);
        optional(self.post_norm.as_ref(), each);
    }
}

impl Ffn {
    /// Everything that the network reads in the order of use, of a mixture all that comes before its experts.
    pub(crate) fn each_use(&self, each: &mut dyn FnMut(Use)) {
        match self {
            Self::Dense(dense) => {
                each(Use::Vector(&dense.norm));
                gated(&dense.unit, each);
                optional(dense.post_norm.as_ref(), each);
            }
            Self::Mixture(mixture) => {
                each(Use::Vector(&mixture.norm));
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
fn latent_inputs(latent: &Latent, form: Form, each: &mut dyn FnMut(Use)) {
    latent.inputs(form).for_each(|matrix| linear(matrix, each));
    if let Some(indexer) = latent.indexer() {
        each(Use::Vector(&indexer.k_norm));
        each(Use::Vector(&indexer.k_norm_bias));
    }
    if let LatentQuery::LowRank { norm, .. } = &latent.query {
        each(Use::Vector(norm));
    }
    latent.queries(form).for_each(|matrix| linear(matrix, each));
    each(Use::Vector(&latent.down_norm));
}

fn linear(linear: &Linear, each: &mut dyn FnMut(Use)) {
    each(Use::Matrix(&linear.weight));
    if let Some(bias) = &linear.bias {
        each(Use::Bias(&linear.weight, bias));
    }
}

fn delta(net: &Delta, each: &mut dyn FnMut(Use)) {
    net.inputs().for_each(|matrix| linear(matrix, each));
    for part in &net.parts {
        each(Use::Vector(&part.weight));
    }
    if let Rates::Apart { decay, .. } = &net.rates {
        second(decay, each);
    }
    each(Use::Vector(&net.decay_bias));
    each(Use::Vector(&net.decay_rate));
    second(&net.gate, each);
    each(Use::Vector(&net.norm));
}

fn second(projection: &Projection, each: &mut dyn FnMut(Use)) {
    if let Some(matrix) = projection.second() {
        linear(matrix, each);
    }
}

fn optional(vector: Option<&Vector>, each: &mut dyn FnMut(Use)) {
    if let Some(vector) = vector {
        each(Use::Vector(vector));
    }
}

fn gated(unit: &GatedUnit, each: &mut dyn FnMut(Use)) {
    for projection in [&unit.gate, &unit.up, &unit.down] {
        linear(projection, each);
    }
}
