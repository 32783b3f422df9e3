//! Rows of a cache on their way between the processor and a card, which keeps them in another order.

use std::ops::Range;

use plan::KvType;

use super::{KvStore, Q8_BLOCK, Q8_BYTES};

impl KvStore {
    /// Bytes of the rows of so many positions on their way to or from a card: [`pack`](Self::pack).
    #[must_use]
    pub fn packed(&self, positions: usize) -> usize {
        self.heads * positions * self.row_bytes
    }

    /// Copies the rows of `positions`, head by head, as a card has them: of `Q8_0` the codes of all rows come first, then the scales of all.
    ///
    /// # Panics
    /// Where there are no such positions, or `out` has not their length.
    pub fn pack(&self, positions: Range<usize>, out: &mut [u8]) {
        let count = positions.len();
        assert_eq!(out.len(), self.packed(count), "bytes of {positions:?}");
        let (codes, scales) = out.split_at_mut(self.heads * count * self.code_bytes());
        for head in 0..self.heads {
            let rows = self.some_rows(head, positions.start, count);
            let place = head * count * self.code_bytes();
            let codes = &mut codes[place..][..count * self.code_bytes()];
            if self.kind == KvType::Q8_0 {
                let place = head * count * (self.row_bytes - self.code_bytes());
                let places = codes.as_chunks_mut::<Q8_BLOCK>().0.iter_mut().zip(scales[place..].as_chunks_mut().0);
                for (block, (codes, scale)) in rows.as_chunks::<Q8_BYTES>().0.iter().zip(places) {
                    *scale = [block[0], block[1]];
                    codes.copy_from_slice(&block[2..]);
                }
            } else {
                codes.copy_from_slice(rows);
            }
        }
    }

    /// Keeps the rows of `positions` that [`pack`](Self::pack), or a card, made.
    ///
    /// # Panics
    /// Where there are no such positions, or `from` has not their length.
    pub fn unpack(&mut self, positions: Range<usize>, from: &[u8]) {
        let count = positions.len();
        assert!(positions.end <= self.capacity && from.len() == self.packed(count), "bytes of {positions:?}");
        let (code_bytes, row_bytes) = (self.code_bytes(), self.row_bytes);
        let (codes, scales) = from.split_at(self.heads * count * code_bytes);
        for head in 0..self.heads {
            let rows = &mut self.buffer[(head * self.capacity + positions.start) * row_bytes..][..count * row_bytes];
            let codes = &codes[head * count * code_bytes..][..count * code_bytes];
            if self.kind == KvType::Q8_0 {
                let scales = scales[head * count * (row_bytes - code_bytes)..].as_chunks::<2>().0;
                let places = codes.as_chunks::<Q8_BLOCK>().0.iter().zip(scales);
                for (block, (codes, scale)) in rows.as_chunks_mut::<Q8_BYTES>().0.iter_mut().zip(places) {
                    block[..2].copy_from_slice(scale);
                    block[2..].copy_from_slice(codes);
                }
            } else {
                rows.copy_from_slice(codes);
            }
        }
    }

    /// Bytes of a row without its scales.
    fn code_bytes(&self) -> usize {
        match self.kind {
            KvType::F32 | KvType::F16 => self.row_bytes,
            KvType::Q8_0 => self.row_bytes / Q8_BYTES * Q8_BLOCK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_and_change_no_others() {
        for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for (heads, dim) in [(1, 1), (2, 33), (3, 64), (1, 576)] {
                let numbers = |position: usize| -> Vec<f32> {
                    (0..heads * dim).map(|i| ((i * 37 + position * 101) % 255) as f32 - 127.0).collect()
                };
                let mut from = KvStore::try_new(kind, heads, dim, 9).unwrap();
                let mut to = KvStore::try_new(kind, heads, dim, 6).unwrap();
                for position in 0..9 {
                    from.write(position, &numbers(position));
                }
                for position in 0..6 {
                    to.write(position, &numbers(50 + position));
                }
                let mut rows = vec![0xee; from.packed(3)];
                from.pack(4..7, &mut rows);
                // At the same positions in both, which have not the same capacity.
                to.unpack(3..6, &rows);
                let mut again = vec![0; rows.len()];
                to.pack(3..6, &mut again);
                assert_eq!(again, rows, "{kind:?} {heads} × {dim}");
                for position in 0..6 {
                    let (mut kept, mut wanted) = (vec![f32::NAN; heads * dim], vec![f32::NAN; heads * dim]);
                    to.read(position, &mut kept);
                    let mut other = KvStore::try_new(kind, heads, dim, 1).unwrap();
                    other.write(0, &numbers(if position < 3 { 50 + position } else { position + 1 }));
                    other.read(0, &mut wanted);
                    assert_eq!(kept, wanted, "{kind:?} {heads} × {dim}, position {position}");
                }
            }
        }
    }

    #[test]
    fn scales_lie_behind_all_codes() {
        let mut store = KvStore::try_new(KvType::Q8_0, 2, 40, 1).unwrap();
        let mut numbers = vec![0.0; 80];
        (numbers[0], numbers[32], numbers[40], numbers[72]) = (127.0, -127.0, 254.0, 63.5);
        store.write(0, &numbers);
        let mut rows = vec![0; store.packed(1)];
        store.pack(0..1, &mut rows);
        assert_eq!(rows.len(), 2 * 2 * 34);
        let codes: Vec<_> = [0, 32, 64, 96].iter().map(|at| rows[*at] as i8).collect();
        assert_eq!(codes, [127, -127, 127, 127]);
        let half = |at: usize| half::f16::from_le_bytes([rows[at], rows[at + 1]]).to_f32();
        assert_eq!([128, 130, 132, 134].map(half), [1.0, 1.0, 2.0, 0.5]);
    }
}
