//! What limits a plan: the bottleneck of each phase, and what more memory would bring.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::figure;
use crate::{
    Bytes, Cost, ExpertUse, Forecast, Forecaster, Inventory, Machine, Overrides, Plan, Profile, TERMS, Tier, forecast,
    plan_with, prepared,
};

/// What a plan's forecast rests on, and what would change it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// What a decoded token takes.
    pub decode: Cost,
    /// What a prompt of one micro-batch takes.
    pub prompt: Cost,
    /// What more of each memory would bring, by replanning; nothing of those that would bring nothing.
    pub margins: Vec<Margin>,
    /// What a prepared copy would save of a token's reads from the drive.
    pub prepared: Option<prepared::Gain>,
}

/// More memory of a tier, and what the plan would then do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Margin {
    /// Which tier.
    pub tier: Tier,
    /// How much more.
    pub more: Bytes,
    /// Decoded tokens per second more; 0 where no run would show it.
    pub decode_tokens_per_s: f64,
    /// Prompt tokens per second more, likewise.
    pub prompt_tokens_per_s: f64,
}

/// The share of a rate, or of bytes, below which no run would show a gain.
const NOTHING: f64 = 0.005;
/// More VRAM that is asked about.
const GPU_STEP: Bytes = Bytes::GIB;
/// The most RAM more that is asked about; less where less would hold all that is on disk.
const RAM_STEP_MOST: Bytes = Bytes(32 << 30);

/// Works it out for a plan that this profile gave on this machine.
#[must_use]
pub fn why(
    plan: &Plan,
    profile: &Profile,
    inventory: &Inventory,
    machine: &Machine,
    counts: Option<&ExpertUse>,
) -> Why {
    let forecaster = Forecaster::new(plan, inventory, machine, counts);
    let (decode, prompt) = (forecaster.decode(forecast::depth(plan), 1), forecaster.prompt(0, plan.micro_batch));
    let steps = plan.tiers.iter().filter_map(|tier| {
        let more = match tier.tier {
            Tier::Ram => ram_step(plan, inventory)?,
            // The flag sets all cards' lines alike.
            Tier::Gpu(0) if !plan.tiers.iter().any(|tier| matches!(tier.tier, Tier::Gpu(n) if n > 0)) => GPU_STEP,
            Tier::Gpu(_) | Tier::Disk => return None,
        };
        Some((tier.tier, tier.ceiling? + more, more))
    });
    let margins = steps.filter_map(|(tier, ceiling, more)| {
        let richer = replanned(profile, inventory, machine, counts, tier, ceiling)?;
        let gain = |rate: fn(&Forecast) -> f64| {
            let (after, before) = (rate(&richer.forecast), rate(&plan.forecast));
            if (after - before).abs() < NOTHING * before { 0.0 } else { after - before }
        };
        let decode_tokens_per_s = gain(|forecast| forecast.decode_tokens_per_s);
        let prompt_tokens_per_s = gain(|forecast| forecast.prompt_tokens_per_s);
        Some(Margin { tier, more, decode_tokens_per_s, prompt_tokens_per_s })
    });
    let margins = margins.filter(|margin| margin.gains().next().is_some());
    Why { decode, prompt, margins: margins.collect(), prepared: prepared::gain(plan, inventory) }
}

/// RAM that would hold what is on disk, in whole GiB; none where nothing that is run is there.
fn ram_step(plan: &Plan, inventory: &Inventory) -> Option<Bytes> {
    let homes = inventory.units.iter().zip(&plan.placements);
    let away: Bytes = homes.filter(|(_, place)| place.home == Tier::Disk).map(|(unit, _)| unit.bytes).sum();
    let reads = plan.tier(Tier::Disk).is_some_and(|disk| disk.read_per_token > Bytes::ZERO);
    (reads && away > Bytes::ZERO).then(|| Bytes(away.0.next_multiple_of(Bytes::GIB.0)).min(RAM_STEP_MOST))
}

/// The plan on a machine with a higher line for one tier.
fn replanned(
    profile: &Profile,
    inventory: &Inventory,
    machine: &Machine,
    counts: Option<&ExpertUse>,
    tier: Tier,
    ceiling: Bytes,
) -> Option<Plan> {
    let (mut machine, mut flags) = (machine.clone(), Overrides::default());
    match tier {
        Tier::Ram => {
            machine.ram_total = machine.ram_total.max(ceiling);
            machine.ram_available = machine.ram_available.max(ceiling);
            flags.ram = Some(ceiling);
        }
        Tier::Gpu(number) => {
            let gpu = machine.gpus.get_mut(number as usize)?;
            gpu.memory_total = gpu.memory_total.max(ceiling);
            gpu.memory_free = gpu.memory_free.max(ceiling);
            flags.gpu_mem = Some(ceiling);
        }
        Tier::Disk => return None,
    }
    let profile = profile.clone().with(&flags).ok()?;
    plan_with(&profile, inventory, &machine, counts).ok()
}

impl Margin {
    fn gains(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let both = [("decode", self.decode_tokens_per_s), ("prompt", self.prompt_tokens_per_s)];
        both.into_iter().filter(|(_, gain)| *gain != 0.0)
    }
}

impl fmt::Display for Margin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gains = self.gains().map(|(phase, gain)| format!("{phase} {} tokens/s", signed(gain)));
        write!(f, "{} more in {}: {}", self.more, self.tier, gains.collect::<Vec<_>>().join(", "))
    }
}

impl Why {
    /// For people, as the text of a plan goes on.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = "\n  what limits it\n".to_owned();
        for (phase, cost) in [("decode", &self.decode), ("prompt", &self.prompt)] {
            let _ = writeln!(out, "    {phase:<12} {}", spent(cost));
        }
        for margin in &self.margins {
            let _ = writeln!(out, "    {margin}");
        }
        if let Some(gain) = self.prepared.as_ref().filter(|gain| gain.share() >= NOTHING) {
            let share = gain.share() * 100.0;
            let _ = writeln!(out, "    a prepared copy (plimsoll repack): {share:.1} % fewer bytes from disk");
        }
        out
    }
}

/// Terms of a cost that matter, the largest first, in per cent.
fn spent(cost: &Cost) -> String {
    const LEAST: f64 = 0.02;
    let share = |seconds: f64| seconds / cost.seconds.max(f64::MIN_POSITIVE);
    let mut terms: Vec<_> = TERMS.into_iter().filter(|term| share(cost.of(*term)) >= LEAST).collect();
    terms.sort_by(|a, b| cost.of(*b).total_cmp(&cost.of(*a)));
    let terms = terms.into_iter().map(|term| format!("{:.0} % {}", share(cost.of(term)) * 100.0, term.name()));
    terms.collect::<Vec<_>>().join(", ")
}

fn signed(value: f64) -> String {
    format!("{}{}", if value < 0.0 { '−' } else { '+' }, figure(value.abs()))
}
