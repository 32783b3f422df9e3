//! One conversation: what layers keep of it, and the tokens it was made of.

use std::sync::atomic::{AtomicU64, Ordering};

use kernels::cpu::KvStore;
use plan::KvPlan;

use crate::EngineError;
use crate::spec::{Kind, Spec};
use crate::state::DeltaState;

/// Keys and values of one layer, or the latents of both.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: KvStore,
    /// None where keys serve as values: latents do.
    pub(crate) values: Option<KvStore>,
    /// Where the layer has an indexer, that one's keys.
    pub(crate) index_keys: Option<KvStore>,
}

/// What one layer keeps of a conversation.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Something for each token.
    Cache(LayerCache),
    /// A state that tokens change.
    State(DeltaState),
    /// Something for each token, in a card's memory.
    #[cfg(feature = "cuda")]
    Card(crate::gpu::CardCache),
}

impl Memory {
    /// What a layer with such attention keeps in RAM.
    fn new(kind: &Kind, kv: &KvPlan) -> Result<Self, EngineError> {
        let store = |kind, heads, width| {
            KvStore::try_new(kind, heads, width, kv.tokens as usize).map_err(|source| EngineError::Memory {
                what: "KV cache",
                bytes: kv.bytes,
                source,
            })
        };
        Ok(Self::Cache(match kind {
            Kind::Delta(net) => return DeltaState::new(net).map(Memory::State),
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
        }))
    }
}

/// One conversation's cache and position. Everything is allocated when it is made; memory is touched as it fills.
#[derive(Debug)]
pub struct Session {
    /// Tells it from every other of this process.
    pub(crate) number: u64,
    pub(crate) layers: Vec<Memory>,
    pub(crate) tokens: Vec<u32>,
    capacity: usize,
}

impl Session {
    /// A conversation, of which the layers in `elsewhere` keep what they keep there.
    pub(crate) fn new(spec: &Spec, kv: &KvPlan, elsewhere: Vec<Option<Memory>>) -> Result<Self, EngineError> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let layers = spec.layers.iter().zip(elsewhere).map(|(layer, elsewhere)| match elsewhere {
            Some(memory) => Ok(memory),
            None => Memory::new(&layer.attention.kind, kv),
        });
        let capacity = kv.tokens as usize;
        let tokens = Vec::with_capacity(capacity);
        Ok(Self { number, layers: layers.collect::<Result<_, _>>()?, tokens, capacity })
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

    /// Forgets all but the first `length` tokens, or all of them where layers keep a state: a state cannot go back to what
    /// it was. What is left is up to [`Self::position`].
    pub fn truncate(&mut self, length: usize) {
        if length >= self.position() {
            return;
        }
        let mut kept = length;
        for memory in &mut self.layers {
            if let Memory::State(state) = memory {
                state.forget();
                kept = 0;
            }
        }
        self.tokens.truncate(kept);
    }

    /// Keeps what passes made of states.
    pub(crate) fn settle(&mut self) {
        self.each_state(DeltaState::settle);
    }

    /// Goes back to the first `length` tokens, from where the passes since then started.
    pub(crate) fn take_back(&mut self, length: usize) {
        self.each_state(DeltaState::take_back);
        self.tokens.truncate(length);
    }

    fn each_state(&mut self, each: impl Fn(&mut DeltaState)) {
        for memory in &mut self.layers {
            if let Memory::State(state) = memory {
                each(state);
            }
        }
    }

    /// Whether `more` tokens fit.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), EngineError> {
        if self.position() + more > self.capacity {
            return Err(EngineError::ContextFull { position: self.position(), asked: more, capacity: self.capacity });
        }
        Ok(())
    }
}
