//! What a prepared copy of a model would gain, whose tensors start on pages of the drive (`plimsoll repack`).
//!
//! Direct reads are of whole pages, so what comes of a file costs the pages around it: half a page at either end, in the mean. Of a slot of
//! 2 MiB that is 0.2 %; of an expert's matrix of 100 KiB, 4 %. A copy saves it where a matrix comes in one piece; the cuts between pieces
//! lie at rows, whatever the file's layout.

use serde::Serialize;

use crate::{Bytes, Inventory, Plan, Role, Tier, Unit};

/// A page of the drive, as direct reads have it.
const PAGE: u64 = 4096;

/// What a decoded token's reads from the drive are, and what a copy would save of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// Bytes that the drive reads for a token, pages around the weights included.
    pub reads: Bytes,
    /// How many of them a copy would save.
    pub saved: Bytes,
}

impl Gain {
    /// The part of all reads that a copy would save.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.saved.as_f64() / self.reads.as_f64().max(1.0)
    }
}

/// Works it out for a plan; none where no token reads from the drive.
#[must_use]
pub fn gain(plan: &Plan, inventory: &Inventory) -> Option<Gain> {
    let read = plan.tier(Tier::Disk)?.read_per_token;
    let (mut bytes, mut now, mut then) = (0.0, 0.0, 0.0);
    for (_, unit) in inventory.iter().filter(|(id, _)| plan.home(*id) == Tier::Disk) {
        let (uses, slot) = (uses(inventory, unit), plan.staging.slot.0);
        if uses > 0.0 && plan.staging.slots > 0 {
            bytes += uses * unit.bytes.as_f64();
            now += uses * pages(unit, unit.offset, slot) as f64;
            then += uses * pages(unit, unit.offset - inventory.tensor_of(unit).offset, slot) as f64;
        }
    }
    let of = |pages: f64| Bytes((read.as_f64() * pages / bytes) as u64);
    (bytes > 0.0 && read > Bytes::ZERO).then(|| Gain { reads: of(now), saved: of((now - then).max(0.0)) })
}

/// How often a token uses a unit, where experts are chosen evenly.
fn uses(inventory: &Inventory, unit: &Unit) -> f64 {
    match unit.role {
        Role::MultiToken => 0.0,
        Role::Embedding if !inventory.tied_output() => 0.0,
        Role::RoutedExpert => f64::from(inventory.shape.experts_used) / f64::from(inventory.shape.experts.max(1)),
        _ => 1.0,
    }
}

/// Bytes of the pages around the pieces of a unit that starts at `offset`.
fn pages(unit: &Unit, offset: u64, slot: u64) -> u64 {
    let row = unit.bytes.0 / unit.rows.max(1);
    let piece = (slot / row.max(1)).max(1) * row;
    let starts = (0..unit.bytes.0).step_by(piece.max(1) as usize);
    let around = |start: u64| {
        let (first, end) = (offset + start, offset + (start + piece).min(unit.bytes.0));
        end.next_multiple_of(PAGE) - first / PAGE * PAGE
    };
    starts.map(around).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_around_a_piece_are_counted_whole() {
        // Rows, bytes, where it starts, the slot, and what is read.
        for (rows, bytes, offset, slot, read) in [
            (2, 8192, 0, 1 << 20, 8192),
            (2, 8192, 32, 1 << 20, 12288),
            (2, 8192, 32, 4096, 16384),
            (1, 100, 4090, 4096, 8192),
            (3, 300, 0, 250, 8192),
        ] {
            let unit =
                Unit { tensor: 0, role: Role::DenseFfn, layer: None, expert: None, rows, offset, bytes: Bytes(bytes) };
            assert_eq!(pages(&unit, offset, slot), read, "{rows} rows of {bytes} bytes at {offset}");
        }
    }
}
