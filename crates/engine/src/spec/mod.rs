//! A model as data: which units each step multiplies with, and the constants between them.
//!
//! An architecture is a [`Family`] (a value, in `arch/`); [`Spec::build`] lays it over a model's metadata and tensors.
//! Owns the meaning of tensor names. Must never know where a unit lives or how it is computed.

mod attention;
mod delta;
mod ffn;
mod indexer;
mod latent;
mod order;
mod sizes;

use gguf::Metadata;
use plan::{Inventory, UnitId};
use tiers::RowSlice;

pub(crate) use attention::{Attention, HeadNorm, Heads, Kind, Temperature};
pub(crate) use delta::{Delta, Projection, Rates};
pub(crate) use ffn::{Dense, Expert, Ffn, GatedUnit, Mixture};
pub(crate) use indexer::{Indexer, IndexerRules, Indexing};
pub(crate) use latent::{Form, HeadRows, Latent, LatentQuery};
pub(crate) use order::Use;
pub(crate) use sizes::{ExpertSizes, Sizes};

use crate::arch::{Family, family};
use crate::claims::Claims;
use crate::rope::Rope;
use crate::{EngineError, rope};

/// A vector (norm weight or bias) with its length.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) slice: RowSlice,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// `y = W x (+ b)`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: RowSlice,
    pub(crate) bias: Option<Vector>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// One layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) attention: Attention,
    pub(crate) ffn: Ffn,
}

/// A model, ready to be run.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) width: usize,
    pub(crate) vocabulary: usize,
    pub(crate) embedding: UnitId,
    pub(crate) embedding_scale: f32,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vector,
    pub(crate) output: Linear,
    pub(crate) logit_softcap: Option<f32>,
    pub(crate) norm_eps: f32,
    pub(crate) ropes: Vec<Rope>,
}

impl Spec {
    /// Lays the model's family over its metadata and tensors. `context` is the session's capacity, on which some
    /// rope scalings depend.
    ///
    /// # Errors
    /// Where the architecture is unknown, metadata is missing or impossible, or tensors differ from what the
    /// architecture has.
    pub(crate) fn build(metadata: &Metadata, inventory: &Inventory, context: u32) -> Result<Self, EngineError> {
        let family = family(metadata.architecture()?)?;
        let sizes = Sizes::read(metadata, inventory, family)?;
        let mut claims = Claims::new(inventory);
        let ropes = rope::read(metadata, family, &sizes, &mut claims, context)?;
        let (width, vocabulary) = (sizes.width, sizes.vocabulary);
        let embedding = claims.matrix("token_embd", width, vocabulary, false);
        let layers = (0..sizes.layers).map(|i| Layer::build(family, &sizes, &mut claims, i)).collect();
        let output_norm = claims.vector("output_norm.weight", width);
        let output = if claims.has("output.weight") {
            claims.matrix("output", width, vocabulary, false)
        } else {
            embedding.clone()
        };
        claims.finish(metadata.architecture()?)?;
        Ok(Self {
            width,
            vocabulary,
            embedding: embedding.weight.unit,
            embedding_scale: if family.embedding_scaled { (width as f32).sqrt() } else { 1.0 },
            layers,
            output_norm,
            output,
            logit_softcap: metadata.float(".final_logit_softcapping")?.map(|cap| cap as f32).filter(|cap| *cap > 0.0),
            norm_eps: metadata.require_float(".attention.layer_norm_rms_epsilon")? as f32,
            ropes,
        })
    }

    /// The longest vector that is used.
    pub(crate) fn longest_vector(&self) -> usize {
        let mut longest = self.width;
        for (layer, form) in self.layers.iter().zip(std::iter::repeat(Form::DECODE)) {
            layer.each_vector(form, &mut |vector| longest = longest.max(vector.length));
            if let Ffn::Mixture(mixture) = &layer.ffn {
                // The biases of experts.
                longest = longest.max(mixture.inner);
            }
        }
        longest
    }

    /// The heads of this model's latent attention, and what it is in the first layer that has it.
    pub(crate) fn latent(&self) -> Option<(usize, &Latent)> {
        self.layers.iter().find_map(|layer| match &layer.attention.kind {
            Kind::Latent(latent) => Some((layer.attention.heads, latent)),
            Kind::Heads(_) | Kind::Delta(_) => None,
        })
    }
}

impl Layer {
    fn build(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Self {
        Self {
            attention: Attention::build(family, sizes, claims, index),
            ffn: Ffn::build(family, sizes, claims, index),
        }
    }
}
