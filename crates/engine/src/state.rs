//! The state that a delta net keeps of a conversation, and how a pass that fails leaves no trace in it.
//!
//! Owns which of two copies holds. A pass starts from the settled one and writes the other; when all passes over the tokens of
//! a call have succeeded, the other one is settled. Nothing is copied for it: the first pass reads the one and writes the other.

use kernels::memory::Buffer;
use plan::Bytes;

use crate::EngineError;
use crate::spec::Delta;

/// One layer's state: the last inputs of its convolutions, and behind them a matrix for each head.
#[derive(Debug)]
pub(crate) struct DeltaState {
    settled: Buffer,
    ahead: Buffer,
    /// Whether a pass has written `ahead`.
    is_ahead: bool,
    /// Numbers of the convolutions' inputs.
    inputs: usize,
}

/// Where one pass works.
pub(crate) struct Turn<'a> {
    /// The last inputs of the convolutions of queries, keys and values, one after another.
    pub(crate) inputs: &'a mut [f32],
    /// Where matrices start, if it is not where they are.
    pub(crate) before: Option<&'a [f32]>,
    pub(crate) matrices: &'a mut [f32],
}

impl DeltaState {
    pub(crate) fn new(net: &Delta) -> Result<Self, EngineError> {
        let (inputs, matrices) = net.state;
        let bytes = 4 * (inputs + matrices);
        let buffer = || {
            Buffer::try_new(bytes).map_err(|source| EngineError::Memory {
                what: "states",
                bytes: Bytes(bytes as u64),
                source,
            })
        };
        Ok(Self { settled: buffer()?, ahead: buffer()?, is_ahead: false, inputs })
    }

    /// Where the next pass works.
    pub(crate) fn next(&mut self) -> Turn<'_> {
        let first = !std::mem::replace(&mut self.is_ahead, true);
        let (settled_inputs, settled) = self.settled.as_f32().split_at(self.inputs);
        let (inputs, matrices) = self.ahead.as_f32_mut().split_at_mut(self.inputs);
        if first {
            inputs.copy_from_slice(settled_inputs);
        }
        Turn { inputs, before: first.then_some(settled), matrices }
    }

    /// Keeps what passes made of it.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.is_ahead) {
            std::mem::swap(&mut self.settled, &mut self.ahead);
        }
    }

    /// Goes back to what was settled.
    pub(crate) fn take_back(&mut self) {
        self.is_ahead = false;
    }

    /// Goes back to nothing.
    pub(crate) fn forget(&mut self) {
        self.take_back();
        self.settled.as_f32_mut().fill(0.0);
    }
}
