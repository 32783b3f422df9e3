//! One allocation that holds every unit whose home is RAM.

use std::sync::Arc;

use kernels::memory::Buffer;
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use crate::TierError;
use crate::drives::Drives;
use crate::load::{Loader, Starts, layout};

/// Units start at multiples of this, a cache line.
const ALIGN: u64 = 64;

/// Resident units, side by side.
pub(crate) struct Arena {
    buffer: Arc<Buffer>,
    /// Which units are here now.
    pub(crate) starts: Starts,
    /// What cards may read where it lies.
    #[cfg(feature = "cuda")]
    registered: Option<kernels::cuda::Registered>,
}

impl Arena {
    /// Allocates the arena and reads every unit into it.
    pub(crate) fn load(
        plan: &Plan,
        inventory: &Inventory,
        loader: &mut Loader,
        drives: &mut Drives,
    ) -> Result<Self, TierError> {
        let (starts, length) = layout(plan, inventory, Tier::Ram, ALIGN);
        let mut buffer = Buffer::try_new(length as usize).map_err(|source| TierError::Memory {
            what: "weights in RAM",
            bytes: Bytes(length),
            source,
        })?;
        loader.read_all(drives, &starts, &mut buffer)?;
        Ok(Self {
            buffer: Arc::new(buffer),
            starts,
            #[cfg(feature = "cuda")]
            registered: None,
        })
    }

    /// The bytes of `unit`, if it lives here.
    pub(crate) fn unit(&self, unit: UnitId) -> Option<&[u8]> {
        let (start, length) = (*self.starts.get(unit.0 as usize)?)?;
        Some(&self.buffer[start..start + length])
    }

    /// Writes over what was at `start`, where no card reads the arena.
    pub(crate) fn write(&mut self, start: usize, bytes: &[u8]) {
        if let Some(buffer) = Arc::get_mut(&mut self.buffer) {
            buffer[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Bytes of the whole arena.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes(self.buffer.len() as u64)
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::ops::Range;
    use std::sync::Arc;

    use kernels::cuda::{Gpu, Registered, SliceMut, Stream};
    use plan::{Bytes, UnitId};

    use super::Arena;
    use crate::TierError;
    use crate::vram::Road;

    /// Bytes that are registered at once.
    const STEP: usize = 1 << 30;

    impl Arena {
        /// Lets cards read the arena where it lies, and says what the system refused: that is copied by a longer way.
        pub(crate) fn register(&mut self, gpu: &Gpu) -> Result<Option<String>, TierError> {
            let (registered, refusal) = Registered::in_parts(gpu, Arc::clone(&self.buffer), STEP)?;
            let left = Bytes((self.buffer.len() - registered.len()) as u64);
            self.registered = Some(registered);
            Ok(refusal.map(|error| {
                format!(
                    "{left} of weights in RAM could not be pinned, and are copied on their way to the GPU, at a fraction of the \
                     link's rate: {error}"
                )
            }))
        }

        /// Where bytes of a unit are, if it lives here.
        pub(crate) fn place(&self, unit: UnitId, part: Range<usize>) -> Option<Range<usize>> {
            let (start, _) = (*self.starts.get(unit.0 as usize)?)?;
            Some(start + part.start..start + part.end)
        }

        /// Copies bytes to a card, in the stream's time.
        pub(crate) fn send(
            &self,
            bytes: Range<usize>,
            stream: &Stream,
            to: &mut SliceMut<'_, u8>,
            road: &mut Road,
        ) -> Result<(), TierError> {
            let Range { start: first, end } = bytes;
            let pinned = self.registered.as_ref().map_or(0, Registered::len).clamp(first, end);
            let mut sent = 0;
            for part in self.registered.iter().flat_map(|registered| registered.parts(first..pinned)) {
                let range = sent..sent + part.len();
                sent = range.end;
                stream.upload(part, &mut to.range(range))?;
            }
            road.carry(stream, &self.buffer[pinned..end], &mut to.range(sent..end - first))
        }
    }
}
