//! Single rows of units, read where they live: a look-up in an embedding table reads no more than it needs.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use kernels::memory::{ByteSource, read_exact_at};
use plan::UnitId;

use crate::arena::Arena;
use crate::rows::Places;
use crate::{Counts, TierError};

/// Units in RAM and in files, of which single rows are read.
pub(crate) struct Rows<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) places: &'a Places,
    pub(crate) sources: &'a [Arc<dyn ByteSource>],
    pub(crate) counts: &'a mut Counts,
    pub(crate) ram_bytes: &'a Cell<u64>,
}

impl Rows<'_> {
    /// Copies a row of a unit into `row`.
    pub(crate) fn read(&mut self, unit: UnitId, index: u64, row: &mut [u8]) -> Result<(), TierError> {
        let length = row.len() as u64;
        if let Some(resident) = self.arena.unit(unit) {
            let start = (index * length) as usize;
            row.copy_from_slice(&resident[start..start + row.len()]);
            self.ram_bytes.set(self.ram_bytes.get() + length);
            return Ok(());
        }
        let place = self.places.place(unit);
        let source = &self.sources[place.file as usize];
        let offset = place.offset + index * length;
        let asked = Instant::now();
        read_exact_at(source.as_ref(), offset, row)
            .map_err(|source| TierError::Read { path: place.path.to_string(), source })?;
        source.forget(offset, length);
        self.counts.disk_stall += asked.elapsed();
        self.counts.disk_bytes += length;
        Ok(())
    }
}
