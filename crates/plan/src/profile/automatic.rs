//! The profile of a user who wrote none.

use super::{Choice, Context, Decode, Origin, Prefill, Profile, TierLimit};
use crate::machine::GPU_CAPABILITY_MIN;
use crate::{Bytes, Lengths, Logits, Machine, Tier};

impl Profile {
    /// Everything this machine has: RAM that is available less a margin, the model's drive, and every GPU that is new
    /// enough. The margins leave room for what other programs take while the model runs.
    #[must_use]
    pub fn automatic(machine: &Machine) -> Self {
        let mut tiers = Vec::new();
        let mut notes = Vec::new();
        for (number, gpu) in machine.gpus.iter().enumerate() {
            let tier = Tier::Gpu(number as u32);
            if gpu.capability < GPU_CAPABILITY_MIN {
                let (major, minor) = gpu.capability;
                let (least, _) = GPU_CAPABILITY_MIN;
                let name = &gpu.name;
                notes.push(format!("{tier} ({name}) is not used: sm_{major}{minor} is older than sm_{least}0"));
            } else {
                let ceiling = Some(less_margin(gpu.memory_free));
                tiers.push(TierLimit { tier, ceiling, origin: Origin::Automatic });
            }
        }
        let ceiling = Some(less_margin(machine.ram_available));
        tiers.push(TierLimit { tier: Tier::Ram, ceiling, origin: Origin::Automatic });
        tiers.push(TierLimit { tier: Tier::Disk, ceiling: None, origin: Origin::Automatic });
        Self {
            name: "automatic".to_owned(),
            tiers,
            threads: Choice::Auto,
            context: Context::default(),
            rules: Vec::new(),
            default: Choice::Auto,
            prefill: Prefill::default(),
            aim: Choice::Auto,
            lengths: Lengths::default(),
            decode: Decode::default(),
            logits: Logits::Every,
            notes,
        }
    }
}

/// A sixteenth, at least 256 MiB and at most 2 GiB, and never more than half.
fn less_margin(available: Bytes) -> Bytes {
    let margin = (available.0 / 16).clamp(256 << 20, 2 << 30).min(available.0 / 2);
    Bytes(available.0 - margin)
}
