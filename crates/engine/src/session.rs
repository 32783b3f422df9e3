//! One conversation: its keys and values, and the tokens they were made of.

use kernels::cpu::KvStore;
use plan::KvPlan;

use crate::EngineError;
use crate::spec::{Kind, Spec};

/// Keys and values of one layer, or the latents of both.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: KvStore,
    /// None where keys serve as values: latents do.
    pub(crate) values: Option<KvStore>,
    /// Where the layer has an indexer, that one's keys.
    pub(crate) index_keys: Option<KvStore>,
}

/// One conversation's cache and position. Everything is allocated when it is made; memory is touched as it fills.
#[derive(Debug)]
pub struct Session {
    pub(crate) layers: Vec<LayerCache>,
    pub(crate) tokens: Vec<u32>,
    capacity: usize,
}

impl Session {
    pub(crate) fn new(spec: &Spec, kv: &KvPlan) -> Result<Self, EngineError> {
        let capacity = kv.tokens as usize;
        let store = |kind, heads, width| {
            KvStore::try_new(kind, heads, width, capacity).map_err(|source| EngineError::Memory {
                what: "KV cache",
                bytes: kv.bytes,
                source,
            })
        };
        let layers = spec.layers.iter().map(|layer| {
            Ok(match &layer.attention.kind {
                Kind::Heads(h) => LayerCache {
                    keys: store(kv.k_type, h.kv_heads, h.k_dim)?,
                    values: Some(store(kv.v_type, h.kv_heads, h.v_dim)?),
                    index_keys: None,
                },
                Kind::Latent(l) => LayerCache {
                    keys: store(kv.k_type, 1, l.sizes.rank + l.sizes.rotated)?,
                    values: None,
                    index_keys: l.indexer().map(|i| store(kv.k_type, 1, i.shape.dim)).transpose()?,
                },
            })
        });
        Ok(Self { layers: layers.collect::<Result<_, EngineError>>()?, tokens: Vec::with_capacity(capacity), capacity })
    }

    /// Tokens kept so far: the position of the next one.
    #[must_use]
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens kept so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
    }

    /// Whether `more` tokens fit.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), EngineError> {
        if self.position() + more > self.capacity {
            return Err(EngineError::ContextFull { position: self.position(), asked: more, capacity: self.capacity });
        }
        Ok(())
    }
}
