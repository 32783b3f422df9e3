//! Flags that change a profile: ceilings, context, threads, and llama.cpp's shorthand for placement.

use super::computing::MICRO_BATCH_MAX;
use super::prove::{THREADS_MAX, TOKENS_MAX, check_pattern, named, quoted};
use super::{Choice, Fault, Layers, Origin, Profile, ProfileError, Rule, Selector, TierLimit};
use crate::{Bytes, KvType, Logits, Role, Tier};

/// What flags ask for. Each stands above the profile; rules from flags come before its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--ram`: the ceiling of RAM.
    pub ram: Option<Bytes>,
    /// `--gpu-mem`: the ceiling of every GPU in use; zero uses none.
    pub gpu_mem: Option<Bytes>,
    /// `-c`: tokens of context.
    pub context: Option<u32>,
    /// `-ctk`: how keys are kept.
    pub k_type: Option<KvType>,
    /// `-ctv`: how values are kept.
    pub v_type: Option<KvType>,
    /// `-t`: CPU threads.
    pub threads: Option<u32>,
    /// `-ub`: prompt tokens computed in one pass.
    pub micro_batch: Option<u32>,
    /// What the command makes logits for.
    pub logits: Option<Logits>,
    /// `-ngl`: the last so many layers live on the GPUs in turn, with one more the output too; the rest in RAM and on disk.
    /// [`Self::ALL_LAYERS`] is `-ngl -1`.
    pub gpu_layers: Option<u32>,
    /// `-ncmoe`: the routed experts of the first so many layers live in RAM, and on disk what does not fit.
    /// [`Self::ALL_LAYERS`] is `-cmoe`.
    pub cpu_moe_layers: Option<u32>,
    /// `-ot`: `REGEX=DEVICE`, several with commas. Devices are plimsoll's tiers, or llama.cpp's `CPU`, `CUDA0`, ….
    pub override_tensors: Vec<String>,
}

impl Overrides {
    /// Every layer, however many a model has.
    pub const ALL_LAYERS: u32 = u32::MAX;
}

impl Profile {
    /// This profile with what the flags ask for.
    ///
    /// # Errors
    /// [`ProfileError`] that names the flag, where it uses a tier that the profile does not name, or cannot be read.
    pub fn with(mut self, flags: &Overrides) -> Result<Self, ProfileError> {
        self.ceilings(flags)?;
        for (number, flag, most, choice) in [
            (flags.context, "-c", TOKENS_MAX, &mut self.context.tokens),
            (flags.threads, "-t", THREADS_MAX, &mut self.threads),
            (flags.micro_batch, "-ub", MICRO_BATCH_MAX, &mut self.prefill.micro_batch),
        ] {
            let Some(number) = number else { continue };
            let origin = Origin::Flag(format!("{flag} {number}"));
            if !(1..=most).contains(&number) {
                let message = if number == 0 { "zero is too few" } else { "more than any machine does" };
                let hint = format!("write a number from 1 to {most}");
                return Err(ProfileError::new(Fault::BadValue, &origin, message, hint));
            }
            *choice = Choice::asked(number, origin);
        }
        self.logits = flags.logits.unwrap_or(self.logits);
        self.context.types_open &= flags.k_type.is_none() && flags.v_type.is_none();
        self.context.k_type = flags.k_type.unwrap_or(self.context.k_type);
        self.context.v_type = flags.v_type.unwrap_or(self.context.v_type);
        let mut rules = self.tensor_rules(&flags.override_tensors)?;
        rules.extend(self.expert_rule(flags.cpu_moe_layers));
        rules.append(&mut self.rules);
        if let Some(layers) = flags.gpu_layers {
            // Whoever counts layers means the whole model: this stands after every other rule and leaves nothing open.
            rules.extend(self.layer_rules(layers)?);
            self.context.kv_home = Choice::Auto;
        }
        self.rules = rules;
        Ok(self)
    }

    fn ceilings(&mut self, flags: &Overrides) -> Result<(), ProfileError> {
        if let Some(ram) = flags.ram {
            let origin = Origin::Flag(format!("--ram {ram}"));
            self.tiers.retain(|limit| limit.tier != Tier::Ram);
            self.tiers.push(TierLimit { tier: Tier::Ram, ceiling: Some(ram), origin });
            self.tiers.sort_by_key(|limit| limit.tier);
        }
        let Some(memory) = flags.gpu_mem else { return Ok(()) };
        let origin = Origin::Flag(format!("--gpu-mem {memory}"));
        let is_gpu = |tier: Tier| matches!(tier, Tier::Gpu(_));
        if memory == Bytes::ZERO {
            self.tiers.retain(|limit| !is_gpu(limit.tier));
            return self.nothing_uses_gpus(&origin);
        }
        let mut changed = false;
        for limit in self.tiers.iter_mut().filter(|limit| is_gpu(limit.tier)) {
            limit.ceiling = Some(memory);
            limit.origin = origin.clone();
            changed = true;
        }
        if changed {
            return Ok(());
        }
        let message = format!("no GPU is among the tiers that may be used ({})", self.tier_names());
        let hint = self.no_gpu_here("--gpu-mem");
        let hint = hint.unwrap_or_else(|| "leave out the flag, or name a GPU under `tiers`".to_owned());
        Err(ProfileError::new(Fault::UnnamedTier, &origin, message, hint))
    }

    /// After the GPUs were taken away: whatever still asks for one is refused.
    fn nothing_uses_gpus(&self, origin: &Origin) -> Result<(), ProfileError> {
        let stream = match self.prefill.stream_to.value() {
            Some(super::StreamTo::Gpu(number)) => Some(Tier::Gpu(*number)),
            _ => None,
        };
        let homes = self.rules.iter().flat_map(|rule| [Some(rule.home), rule.overflow]).flatten();
        let asked = homes.chain(self.context.kv_home.value().copied()).chain(self.default.value().copied());
        match asked.chain(stream).find(|tier| matches!(tier, Tier::Gpu(_))) {
            None => Ok(()),
            Some(tier) => {
                let message = format!("this takes away {tier}, which {} uses", self.name);
                let hint = "change the profile, or leave out the flag";
                Err(ProfileError::new(Fault::UnnamedTier, origin, message, hint))
            }
        }
    }

    /// The way out for a flag about GPUs where the user wrote no profile: then the tiers are what this machine has.
    fn no_gpu_here(&self, flag: &str) -> Option<String> {
        let is_gpu = |limit: &TierLimit| matches!(limit.tier, Tier::Gpu(_));
        let automatic = self.tiers.iter().any(|limit| limit.origin == Origin::Automatic);
        let alone = automatic && !self.tiers.iter().any(is_gpu);
        alone.then(|| format!("no usable GPU here; leave out {flag}"))
    }

    fn disk_if_named(&self) -> Option<Tier> {
        self.tier(Tier::Disk).map(|limit| limit.tier)
    }

    fn expert_rule(&self, layers: Option<u32>) -> Option<Rule> {
        let layers = layers?;
        Some(Rule {
            selector: Selector { role: Some(Role::RoutedExpert), layers: Layers::First(layers), ..Selector::default() },
            home: Tier::Ram,
            overflow: self.disk_if_named(),
            must_match: false,
            in_turn: false,
            origin: Origin::Flag(match layers {
                Overrides::ALL_LAYERS => "-cmoe".to_owned(),
                layers => format!("-ncmoe {layers}"),
            }),
        })
    }

    fn layer_rules(&self, layers: u32) -> Result<Vec<Rule>, ProfileError> {
        let origin = Origin::Flag(match layers {
            Overrides::ALL_LAYERS => "-ngl -1".to_owned(),
            layers => format!("-ngl {layers}"),
        });
        let rule = |selector: Selector, home: Tier, overflow: Option<Tier>| Rule {
            selector,
            home,
            overflow,
            must_match: false,
            in_turn: false,
            origin: origin.clone(),
        };
        let mut rules = Vec::new();
        if layers > 0 {
            let mut gpus = self.tiers.iter().map(|limit| limit.tier).filter(|tier| matches!(tier, Tier::Gpu(_)));
            let (first, several) = (gpus.next().unwrap_or(Tier::Gpu(0)), gpus.next().is_some());
            named(self, first, &origin).map_err(|error| match self.no_gpu_here("-ngl") {
                Some(hint) => ProfileError { hint, ..error },
                None => error,
            })?;
            let last = Selector { layers: Layers::Last(layers), ..Selector::default() };
            rules.push(Rule { in_turn: several, ..rule(last, first, None) });
        }
        rules.push(rule(Selector::default(), Tier::Ram, self.disk_if_named()));
        Ok(rules)
    }

    fn tensor_rules(&self, overrides: &[String]) -> Result<Vec<Rule>, ProfileError> {
        let parts = overrides.iter().flat_map(|text| text.split(','));
        parts.map(|text| self.tensor_rule(text)).collect()
    }

    fn tensor_rule(&self, text: &str) -> Result<Rule, ProfileError> {
        let origin = Origin::Flag(format!("-ot {text}"));
        let Some((pattern, device)) = text.rsplit_once('=') else {
            let hint = "write REGEX=DEVICE, such as -ot 'ffn_.*_exps=ram'";
            return Err(ProfileError::new(Fault::BadValue, &origin, "no `=` with a device after it", hint));
        };
        let Some(home) = tier_of(device) else {
            let message = format!("{} is not a device", quoted(device));
            let hint = "devices are ram (or CPU), disk, and gpu:0 (or CUDA0), gpu:1, …";
            return Err(ProfileError::new(Fault::BadValue, &origin, message, hint));
        };
        named(self, home, &origin)?;
        check_pattern(pattern, &origin)?;
        Ok(Rule {
            selector: Selector { tensors: Some(pattern.to_owned()), ..Selector::default() },
            home,
            overflow: None,
            must_match: true,
            in_turn: false,
            origin,
        })
    }
}

/// A tier by plimsoll's name or by llama.cpp's: `CPU`, `CUDA0`.
fn tier_of(device: &str) -> Option<Tier> {
    let device = device.trim().to_ascii_lowercase();
    match device.strip_prefix("cuda") {
        Some(number) => number.parse().ok().map(Tier::Gpu),
        None if device == "cpu" => Some(Tier::Ram),
        None => device.parse().ok(),
    }
}
