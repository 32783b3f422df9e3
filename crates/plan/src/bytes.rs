//! Counts of bytes and rates, as types with units, and how people write them.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A count of bytes. Never a count of elements.
///
/// Prints in binary units (`11.5 GiB`); parses `11.5GiB`, `512 MB`, `64K`, `1024` (see [`Bytes::from_str`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Self = Self(0);
    /// 2^20 bytes.
    pub const MIB: Self = Self(1 << 20);
    /// 2^30 bytes.
    pub const GIB: Self = Self(1 << 30);

    /// So many times as much. Sums and products stop at the largest count, which no ceiling holds.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// The difference, or zero where `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This many bytes, as a float for rates and forecasts.
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0 as f64
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, size)) => f.pad(&format!("{:.2} {unit}", self.0 as f64 / *size as f64)),
            None => f.pad(&format!("{} B", self.0)),
        }
    }
}

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size\n\nhint: write a number with a unit, such as 11.5GiB, 512MiB or 4GB")]
pub struct NotASize {
    /// The text as it was written.
    pub text: String,
}

impl FromStr for Bytes {
    type Err = NotASize;

    /// Reads `11.5GiB`, `512 MB`, `64K`, `1024`. `K M G T` alone are binary, as llama.cpp's users write them;
    /// `KB MB GB TB` are decimal, `KiB MiB GiB TiB` binary. Case does not matter.
    fn from_str(text: &str) -> Result<Self, NotASize> {
        let fail = || NotASize { text: text.to_owned() };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let number: f64 = number.parse().map_err(|_| fail())?;
        let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(fail()),
        };
        let bytes = number * scale as f64;
        // 2^63 is far beyond any machine and keeps sums of a few sizes inside u64.
        if bytes.is_finite() && (0.0..9.2e18).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(fail()) }
    }
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerSecond(pub f64);

impl BytesPerSecond {
    /// Seconds that `bytes` take at this rate.
    #[must_use]
    pub fn seconds(self, bytes: Bytes) -> f64 {
        bytes.as_f64() / self.0
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} GB/s", self.0 / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("1024", 1024),
            ("11.5GiB", 12_348_030_976),
            ("512 MB", 512_000_000),
            ("64k", 65_536),
            ("4G", 4 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_not_a_size() {
        for text in ["", "GiB", "-1GiB", "1e9", "12 parsecs", "99999999TiB", "1.2.3", "NaN"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_in_binary_units() {
        assert_eq!(Bytes(12_348_030_976).to_string(), "11.50 GiB");
        assert_eq!(Bytes(17).to_string(), "17 B");
    }
}
