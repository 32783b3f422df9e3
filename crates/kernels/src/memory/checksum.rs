//! A checksum that keeps up with a drive: XXH64 (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>), 64 bits of which each
//! depends on every bit of the input. It finds accidents, not attacks. `xxhsum -H64` computes the same.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// Bytes that the four lanes take at once.
const STRIPE: usize = 32;

/// The checksum of bytes that come in parts (seed 0).
#[derive(Clone, Debug)]
pub struct Checksum {
    lanes: [u64; 4],
    /// What came after the last whole stripe.
    rest: [u8; STRIPE],
    total: u64,
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl Checksum {
    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { lanes: [P1.wrapping_add(P2), P2, 0, 0_u64.wrapping_sub(P1)], rest: [0; STRIPE], total: 0 }
    }

    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> u64 {
        let mut sum = Self::new();
        sum.add(bytes);
        sum.value()
    }

    /// Adds bytes behind those that came before.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let held = (self.total % STRIPE as u64) as usize;
        self.total += bytes.len() as u64;
        if held > 0 {
            let more = bytes.len().min(STRIPE - held);
            self.rest[held..held + more].copy_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            if held + more < STRIPE {
                return;
            }
            let rest = self.rest;
            stripe(&mut self.lanes, &rest);
        }
        let (stripes, rest) = bytes.as_chunks::<STRIPE>();
        for bytes in stripes {
            stripe(&mut self.lanes, bytes);
        }
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// The checksum of all that came.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut sum = if self.total < STRIPE as u64 {
            P5
        } else {
            let [a, b, c, d] = self.lanes;
            let turned = [a.rotate_left(1), b.rotate_left(7), c.rotate_left(12), d.rotate_left(18)];
            let sum = turned.into_iter().fold(0, u64::wrapping_add);
            self.lanes.iter().fold(sum, |sum, lane| (sum ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4))
        };
        sum = sum.wrapping_add(self.total);
        let (words, rest) = self.rest[..(self.total % STRIPE as u64) as usize].as_chunks::<8>();
        for word in words {
            sum ^= round(0, u64::from_le_bytes(*word));
            sum = sum.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        }
        let (halves, rest) = rest.as_chunks::<4>();
        for half in halves {
            sum ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
            sum = sum.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        }
        for byte in rest {
            sum ^= u64::from(*byte).wrapping_mul(P5);
            sum = sum.rotate_left(11).wrapping_mul(P1);
        }
        sum = (sum ^ (sum >> 33)).wrapping_mul(P2);
        sum = (sum ^ (sum >> 29)).wrapping_mul(P3);
        sum ^ (sum >> 32)
    }
}

fn stripe(lanes: &mut [u64; 4], bytes: &[u8; STRIPE]) {
    for (lane, word) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *lane = round(*lane, u64::from_le_bytes(*word));
    }
}

const fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_specification() {
        // Of `xxhsum -H64`.
        for (text, sum) in [
            ("", 0xEF46_DB37_51D8_E999),
            ("a", 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0x44BC_2CF5_AD77_0999),
            ("Nobody inspects the spammish repetition", 0xFBCE_A83C_8A37_8BF1),
        ] {
            assert_eq!(Checksum::of(text.as_bytes()), sum, "{text}");
        }
    }

    #[test]
    fn parts_do_not_show_and_every_bit_does() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| (i * 37 >> 2) as u8).collect();
        let whole = Checksum::of(&bytes);
        for cut in 0..bytes.len() {
            let mut sum = Checksum::new();
            sum.add(&bytes[..cut]);
            sum.add(&[]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.value(), whole, "cut at {cut}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[cut] ^= 1 << bit;
                assert_ne!(Checksum::of(&flipped), whole, "bit {bit} of byte {cut}");
            }
        }
    }
}
