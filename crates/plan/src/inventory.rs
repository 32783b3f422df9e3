//! What a model file holds, as plain values: tensors, the units that can be placed, and the shape of the model.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bytes, QuantType};

/// The place of a unit in [`Inventory::units`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitId(pub u32);

/// What a tensor does in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The table of token vectors. Where the model has no output matrix it serves as that too.
    Embedding,
    /// Projections of attention with their biases, and rope factors.
    Attention,
    /// The feed-forward matrices of a dense layer.
    DenseFfn,
    /// An expert that every token passes.
    SharedExpert,
    /// An expert that the router may choose.
    RoutedExpert,
    /// The matrix that chooses experts.
    Router,
    /// Weights of norms.
    Norm,
    /// The matrix that makes logits.
    Output,
    /// Layers that predict further tokens. They are known, and not run.
    MultiToken,
}

impl Role {
    /// Every role, in the order of tables.
    pub const ALL: [Self; 9] = [
        Self::Embedding,
        Self::Attention,
        Self::DenseFfn,
        Self::SharedExpert,
        Self::RoutedExpert,
        Self::Router,
        Self::Norm,
        Self::Output,
        Self::MultiToken,
    ];

    /// The name in profiles and tables: `routed_expert`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::DenseFfn => "dense_ffn",
            Self::SharedExpert => "shared_expert",
            Self::RoutedExpert => "routed_expert",
            Self::Router => "router",
            Self::Norm => "norm",
            Self::Output => "output",
            Self::MultiToken => "multi_token",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One tensor of the model, where it lies in which file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// The name in the file: `blk.3.ffn_down.weight`.
    pub name: String,
    /// How its numbers are stored.
    pub quant: QuantType,
    /// Dimensions as in the file, the row length (input width) first.
    pub dims: Vec<u64>,
    /// The file of a split set, counted from 0.
    pub file: u32,
    /// Where its bytes start, from the start of that file.
    pub offset: u64,
    /// Its bytes in the file.
    pub bytes: Bytes,
}

impl Tensor {
    /// Numbers in one row (the input width of a matrix).
    #[must_use]
    pub fn row_elements(&self) -> u64 {
        self.dims[0]
    }

    /// Rows over all further dimensions (the output width of a matrix; 1 for a vector).
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> Bytes {
        Bytes(self.bytes.0 / self.rows().max(1))
    }
}

/// The smallest thing that has a home of its own: a tensor, or one expert's slice of a tensor that holds many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The tensor, as an index into [`Inventory::tensors`].
    pub tensor: u32,
    /// What it does.
    pub role: Role,
    /// The layer it belongs to, from 0; none for embedding, output and their like.
    pub layer: Option<u32>,
    /// The routed expert, from 0.
    pub expert: Option<u32>,
    /// Rows of this unit.
    pub rows: u64,
    /// Where its bytes start, from the start of the tensor's file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

/// One file of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// The path as it was opened.
    pub path: String,
    /// Its length.
    pub bytes: Bytes,
}

/// The widths of multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latent {
    /// Numbers of a token's latent, the rotated key beside it left out.
    pub rank: u32,
    /// Numbers of one head's key, the rotated ones among them.
    pub key: u32,
    /// Numbers of one head's value.
    pub value: u32,
}

/// The sizes of a model that planning needs; everything else about an architecture is the engine's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// GGUF's `general.architecture`: `llama`, `deepseek2`.
    pub architecture: String,
    /// Layers that are run (multi-token-prediction layers left out).
    pub layers: u32,
    /// Width of the residual stream.
    pub embedding: u32,
    /// Query heads.
    pub heads: u32,
    /// Widest feed-forward inner width of a dense layer or shared expert.
    pub feed_forward: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The context length the model was trained for.
    pub context_train: u32,
    /// For each layer, the numbers that one token adds to the K cache and to the V cache.
    /// MLA layers keep their latent in K and nothing in V.
    pub kv_per_token: Vec<(u32, u32)>,
    /// The numbers of one row in the K cache and in the V cache: one head's, or MLA's latent. Types with blocks pad each
    /// row to whole blocks.
    pub kv_row: (u32, u32),
    /// The widths of MLA, where layers keep latents.
    #[serde(default)]
    pub latent: Option<Latent>,
    /// For each layer, the numbers that one token adds to the cache of its indexer, which chooses the positions that
    /// attention looks at; empty where no layer has one.
    pub indexer_per_token: Vec<u32>,
    /// The delta nets of a model whose layers keep a state instead of a cache.
    pub delta: Option<DeltaSizes>,
    /// Routed experts per layer; 0 for dense models.
    pub experts: u32,
    /// Routed experts that each token uses.
    pub experts_used: u32,
}

/// Sizes of gated delta nets: layers that keep a state of fixed size, whatever the context.
///
/// Each head of values keeps a matrix of `key × value` numbers; queries, keys and values pass a convolution that keeps its
/// last `taps - 1` inputs (<https://arxiv.org/abs/2412.06464>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaSizes {
    /// For each layer, whether it is one of these.
    pub layers: Vec<bool>,
    /// Heads of values.
    pub heads: u32,
    /// Heads of queries and keys.
    pub key_heads: u32,
    /// Numbers of a head's query and key.
    pub key: u32,
    /// Numbers of a head's value.
    pub value: u32,
    /// Inputs of the convolution.
    pub taps: u32,
    /// Whether each number of a key fades by itself, instead of a head as a whole.
    pub decay_each: bool,
}

impl DeltaSizes {
    /// Numbers of all heads' queries, keys and values of one token.
    #[must_use]
    pub fn widths(&self) -> [u64; 3] {
        let keys = u64::from(self.key_heads) * u64::from(self.key);
        [keys, keys, u64::from(self.heads) * u64::from(self.value)]
    }

    /// By how many numbers the states of one token fade.
    #[must_use]
    pub fn decays(&self) -> u64 {
        u64::from(self.heads) * if self.decay_each { u64::from(self.key) } else { 1 }
    }

    /// Numbers that one layer keeps: of the convolution, and of all heads' matrices.
    #[must_use]
    pub fn state(&self) -> (u64, u64) {
        let channels: u64 = self.widths().iter().sum();
        (u64::from(self.taps.saturating_sub(1)) * channels, self.widths()[2] * u64::from(self.key))
    }
}

/// The text side of a model, sized for planning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VocabularySize {
    /// Tokens listed.
    pub tokens: u64,
    /// Merge rules listed.
    pub merges: u64,
    /// Bytes of all token texts and merge rules, and of all other strings and arrays of the metadata.
    pub text_bytes: Bytes,
}

/// What a model holds: `gguf` makes it from a header, `plan` decides over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The model's name for people.
    pub name: String,
    /// Its files, in the order of the split.
    pub files: Vec<ModelFile>,
    /// Its sizes.
    pub shape: ModelShape,
    /// Its vocabulary's sizes.
    pub vocabulary: VocabularySize,
    /// Every tensor, in file order.
    pub tensors: Vec<Tensor>,
    /// Every unit, by tensor and then by expert.
    pub units: Vec<Unit>,
}

impl Inventory {
    /// The unit with this id.
    #[must_use]
    pub fn unit(&self, id: UnitId) -> &Unit {
        &self.units[id.0 as usize]
    }

    /// The tensor that a unit is, or is a slice of.
    #[must_use]
    pub fn tensor_of(&self, unit: &Unit) -> &Tensor {
        &self.tensors[unit.tensor as usize]
    }

    /// Whether a unit is one row: a norm's weights, a bias. A GPU has a copy of each in 32-bit floats, wherever it lives.
    #[must_use]
    pub fn is_vector(&self, unit: &Unit) -> bool {
        unit.rows == 1 || self.tensor_of(unit).dims.len() < 2
    }

    /// Every unit with its id.
    pub fn iter(&self) -> impl Iterator<Item = (UnitId, &Unit)> {
        self.units.iter().enumerate().map(|(i, unit)| (UnitId(i as u32), unit))
    }

    /// The first unit of the tensor with this name.
    #[must_use]
    pub fn find(&self, tensor: &str) -> Option<UnitId> {
        self.iter().find(|(_, unit)| self.tensor_of(unit).name == tensor).map(|(id, _)| id)
    }

    /// Bytes of all units.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.units.iter().map(|unit| unit.bytes).sum()
    }

    /// Whether the embedding table is the output matrix too.
    #[must_use]
    pub fn tied_output(&self) -> bool {
        !self.units.iter().any(|unit| unit.role == Role::Output && self.tensor_of(unit).dims.len() > 1)
    }
}
