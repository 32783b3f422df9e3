//! The seconds of one pass, layer by layer.

mod coming;
mod copies;
mod cpu;
mod gpu;

use self::copies::{comes, share_of};
use super::depth;
use super::layers::{Layer, jobs, layers};
use super::streams::{Coming, Rings};
use super::terms::{Cost, Term};
use crate::blocks::{Block, Devices, block_of};
use crate::expert_cache::{HitRates, KeptRates};
use crate::traffic::Traffic;
use crate::{Device, Gpu, Inventory, LayerDevices, Machine, Placement, Plan, QuantType, Role, Tier, Unit};

/// How much more RAM gives to the processor and a link together than the processor's kernels read of 4-bit weights by themselves, at least: those
/// reach 85 to 90 % of what plain reads do, and less where many cores unpack slower than RAM gives. There kernels of wide numbers tell more.
const RAM_SHARED: f64 = 1.1;

/// What passes through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// One token after so many others.
    Decode { depth: u32 },
    /// So many tokens of a prompt after others, computed where weights live.
    Prompt { first: u32, tokens: u32 },
    /// The same with weights streamed to a GPU.
    Streamed { first: u32, tokens: u32 },
}

impl Pass {
    const fn tokens(self) -> u32 {
        match self {
            Self::Decode { .. } => 1,
            Self::Prompt { tokens, .. } | Self::Streamed { tokens, .. } => tokens,
        }
    }

    /// Tokens in the cache before it.
    const fn first(self) -> u32 {
        match self {
            Self::Decode { depth } => depth,
            Self::Prompt { first, .. } | Self::Streamed { first, .. } => first,
        }
    }
}

/// Bytes that a device reads and operations that it does at the same time.
#[derive(Clone, Copy, Default)]
struct Work {
    bytes: f64,
    operations: f64,
}

/// What one stage costs.
#[derive(Clone, Copy, Default)]
struct Stage {
    disk_bytes: f64,
    /// Streamed to a GPU for attention, and for what follows it: what it does with them, behind all else.
    comes: [Coming; 2],
    /// One after the other: the processor's blocks, GPUs' blocks, and crossings between them.
    weights_s: f64,
    attention_s: f64,
    vectors_s: f64,
    gpu_s: f64,
    crossings_s: f64,
    /// Kernels behind `gpu_s`.
    kernels: f64,
    /// At the same time: routed experts outside a GPU's memory, and those inside with what every token passes.
    cpu_beside_s: f64,
    gpu_beside_s: f64,
    /// And of the first those that are copied to a GPU: seconds of link and products, with products of those that were kept there, and bytes.
    fetch_s: f64,
    fetched_bytes: f64,
    /// Bytes that the processor reads of RAM: those of its blocks, and of experts beside a GPU.
    ram_bytes: f64,
    beside_bytes: f64,
    /// Of what is streamed, experts that the processor could compute instead, and its seconds for them.
    open: Coming,
    /// What it would take to bring it their inputs, and their sum back.
    beside_crossings_s: f64,
}

/// How a layer's routed experts are stored that a GPU holds, and the others, if there are any.
#[derive(Clone, Copy, Default)]
struct Experts {
    here: Option<QuantType>,
    away: Option<QuantType>,
}

/// A plan with what its passes need to know.
pub(super) struct Passes<'a> {
    plan: &'a Plan,
    /// The units, those that cost alike as one: the first of them, and how many they are.
    units: Vec<(usize, f64)>,
    inventory: &'a Inventory,
    machine: &'a Machine,
    traffic: Traffic<'a>,
    /// Rates of the processor, none of them zero.
    ram: f64,
    /// What RAM gives to all cores and a link together.
    ram_together: f64,
    disk: f64,
    /// The share of it that is left while the processor computes.
    disk_beside: f64,
    operations: f64,
    /// The rings of GPUs.
    rings: Rings,
    /// What layers do besides products.
    layers: Vec<Layer>,
    /// By tensor the bytes of the job that one token's products with it are part of, where the processor's kernels were measured.
    jobs: Vec<f64>,
    /// The bytes in RAM among which tokens read.
    read_again: f64,
    /// Devices of blocks in decode, and in prompts with streamed weights.
    decode: Devices,
    /// By layer, whether its feed-forward matrices are copied to a GPU in decode too.
    comes: Vec<bool>,
    streamed: Devices,
    /// The share of a token's experts outside a GPU's memory that are copied to one.
    fetched: f64,
    /// The share of those that the GPU kept from tokens before.
    kept: KeptRates,
    /// By layer, how its routed experts are stored in and outside a GPU's memory; none for dense layers.
    mixtures: Vec<Option<Experts>>,
    /// How often decode finds experts in RAM that change places.
    hits: HitRates,
    /// By layer, whether one GPU has all of it, and chooses no experts: a token's kernels there are launched together.
    alone: Vec<bool>,
}

impl<'a> Passes<'a> {
    pub(super) fn new(plan: &'a Plan, inventory: &'a Inventory, machine: &'a Machine, traffic: Traffic<'a>) -> Self {
        let share = f64::from(plan.threads.min(machine.cores)) / f64::from(machine.cores.max(1));
        let decode = Devices { layers: plan.blocks.clone(), output: plan.output };
        let (mut streamed, mut mixtures) = (decode.clone(), vec![None; plan.blocks.len()]);
        let one = |layer: &LayerDevices| layer.attention != Device::Cpu && layer.attention == layer.ffn;
        let mut alone: Vec<bool> = plan.blocks.iter().map(one).collect();
        let mut read_again = 0.0;
        for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
            read_again += if placement.home == Tier::Ram { traffic.read_again(unit) } else { 0.0 };
            let block = block_of(inventory, unit, traffic.tied());
            if let (Device::Gpu(_), Some(device)) = (placement.prefill, block.and_then(|block| streamed.get_mut(block)))
            {
                *device = placement.prefill;
            }
            let on_gpu = matches!(placement.home, Tier::Gpu(_));
            let layer = unit.layer.and_then(|layer| mixtures.get_mut(layer as usize));
            if let (Role::RoutedExpert, Some(layer)) = (unit.role, layer) {
                let experts: &mut Experts = layer.get_or_insert_default();
                let side = if on_gpu { &mut experts.here } else { &mut experts.away };
                side.get_or_insert_with(|| inventory.tensor_of(unit).quant);
            }
            let is_there = on_gpu || inventory.is_vector(unit);
            if let Some(alone) = unit.layer.and_then(|layer| alone.get_mut(layer as usize)) {
                *alone &= unit.role != Role::RoutedExpert && is_there;
            }
        }
        Self {
            plan,
            units: units(plan, inventory, traffic),
            inventory,
            machine,
            traffic,
            ram: (machine.ram_read.rate.0 * share).max(1.0),
            ram_together: ram_together(machine),
            disk: machine.disk_read.rate.0.max(1.0),
            disk_beside: machine.disk_beside.clamp(0.01, 1.0),
            operations: (machine.cpu_ops_per_second * share).max(1.0),
            comes: comes(plan, inventory),
            layers: layers(inventory),
            jobs: if machine.processor.is_some() { jobs(inventory, traffic) } else { Vec::new() },
            read_again,
            decode,
            streamed,
            rings: Rings::of(plan, machine),
            fetched: plan.fetch.map_or(0.0, share_of),
            kept: KeptRates::new(inventory, (&plan.placements, &plan.blocks), plan.fetch, traffic.counted()),
            mixtures,
            hits: HitRates::new(inventory, &plan.placements, plan.exchange, traffic.counted()),
            alone,
        }
    }

    /// Seconds of a decoded token at the plan's [`depth`].
    pub(super) fn decode_s(&self) -> f64 {
        self.cost(Pass::Decode { depth: depth(self.plan) }).seconds
    }

    /// What a pass costs.
    pub(super) fn cost(&self, pass: Pass) -> Cost {
        self.sum(&self.stages(pass, false), pass)
    }

    /// The stages of a pass; what is `open` is only looked at for a choice.
    fn stages(&self, pass: Pass, open: bool) -> Vec<Stage> {
        let layers = self.plan.blocks.len();
        let mut stages = vec![Stage::default(); layers + 1];
        for (index, count) in &self.units {
            let (unit, placement) = (&self.inventory.units[*index], &self.plan.placements[*index]);
            let stage = unit.layer.map_or(layers, |layer| (layer as usize).min(layers));
            let work = self.work(unit, pass).times(*count);
            self.read(&mut stages[stage], unit, placement, (pass, work));
            if open {
                self.leave_open(&mut stages[stage], unit, placement, (pass, work));
            }
        }
        for (layer, stage) in stages[..layers].iter_mut().enumerate() {
            self.attend(stage, layer, pass);
            self.vectors(stage, layer, pass);
            self.launch(stage, layer, pass);
        }
        self.logits(&mut stages[layers]);
        self.cross(&mut stages, pass);
        stages
    }

    /// What stages in a row cost.
    fn sum(&self, stages: &[Stage], pass: Pass) -> Cost {
        let costs: Vec<Cost> = stages.iter().map(|stage| self.spent(stage, pass)).collect();
        let mut cost = Cost::default();
        for stage in &costs {
            cost += *stage;
        }
        if stages.iter().any(Stage::has_coming) || matches!(pass, Pass::Streamed { .. }) {
            self.come_beside(&mut cost, &costs, stages, pass);
        }
        cost
    }

    /// Seconds of the drive with what a stage reads.
    fn disk_s(&self, stage: &Stage) -> f64 {
        stage.disk_bytes / self.disk * self.machine.calibration.disk
    }

    /// A stage's seconds: what computes, one after the other, and what it is waited for.
    fn spent(&self, stage: &Stage, pass: Pass) -> Cost {
        let calibration = &self.machine.calibration;
        let cpu = if matches!(pass, Pass::Decode { .. }) { calibration.decode } else { calibration.prompt };
        let (cpu_beside, gpu_beside) = (stage.cpu_beside_s * cpu, stage.gpu_beside_s * calibration.gpu);
        let shared = (stage.beside_bytes + stage.fetched_bytes) / self.ram_together;
        let fetch = if stage.fetch_s > 0.0 { stage.fetch_s.max(shared) } else { 0.0 };
        let cpu_s = (stage.weights_s + stage.attention_s + stage.vectors_s) * cpu + cpu_beside;
        let (disk, left) = (self.disk_s(stage), self.disk_beside);
        // Slower until the processor is done, or until all is read.
        let disk = (disk + cpu_s * (1.0 - left)).min(disk / left);
        let mut cost = Cost {
            cpu_s,
            gpu_s: stage.gpu_s * calibration.gpu + gpu_beside,
            disk_s: disk,
            link_s: stage.fetch_s,
            ..Cost::default()
        };
        let streamed = matches!(pass, Pass::Streamed { .. });
        // Beside what comes, in streamed passes.
        let after = if streamed { 0.0 } else { (cpu_beside - gpu_beside).max(0.0) };
        cost.spend(Term::Weights, stage.weights_s * cpu + after);
        cost.spend(Term::Attention, stage.attention_s * cpu);
        cost.spend(Term::Vectors, stage.vectors_s * cpu);
        cost.spend(Term::Gpu, cost.gpu_s);
        let beside = if streamed && stage.beside_bytes > 0.0 { stage.beside_crossings_s } else { 0.0 };
        cost.spend(Term::Crossings, stage.crossings_s + beside);
        cost.spend(Term::Link, (fetch - cpu_beside.max(gpu_beside)).max(0.0));
        if !stage.has_coming() || !streamed {
            cost.spend(Term::Disk, (disk - cost.seconds).max(0.0));
        }
        cost
    }

    /// The devices of blocks in this pass.
    const fn devices(&self, pass: Pass) -> &Devices {
        match pass {
            Pass::Decode { .. } | Pass::Prompt { .. } => &self.decode,
            Pass::Streamed { .. } => &self.streamed,
        }
    }

    fn gpu(&self, number: u32) -> Option<&'a Gpu> {
        self.machine.gpus.get(number as usize)
    }

    /// What a pass reads of a unit, and computes with it.
    fn work(&self, unit: &Unit, pass: Pass) -> Work {
        let tokens = tokens_of(unit, pass);
        let bytes = unit.bytes.as_f64() * self.traffic.touched(unit, tokens);
        Work { bytes, operations: self.traffic.operations(unit, tokens) }
    }

    /// Adds what a unit costs its stage, or several that cost alike and are this work together.
    fn read(&self, stage: &mut Stage, unit: &Unit, placement: &Placement, (pass, work): (Pass, Work)) {
        let (tokens, bytes) = (tokens_of(unit, pass), work.bytes);
        let decode = matches!(pass, Pass::Decode { .. });
        let kept = if decode { self.kept.share(unit, placement.home) } else { 0.0 };
        stage.disk_bytes += bytes
            * match pass {
                Pass::Decode { .. } => self.hits.share_on_disk(unit, placement.home) * (1.0 - kept),
                _ => f64::from(u8::from(placement.home == Tier::Disk)),
            };
        let block = block_of(self.inventory, unit, self.traffic.tied());
        let device = block.and_then(|block| self.devices(pass).get(block));
        match (placement.home, placement.prefill, device) {
            (Tier::Gpu(number), ..) => {
                let seconds = self.unit_on_gpu(number, unit, work);
                if matches!(unit.role, Role::RoutedExpert | Role::SharedExpert) {
                    stage.gpu_beside_s += seconds;
                } else {
                    stage.gpu_s += seconds;
                    stage.kernels += f64::from(u8::from(self.has_kernel(unit)));
                }
            }
            (_, Device::Gpu(number), _) if matches!(pass, Pass::Streamed { .. }) => {
                self.bring(stage, unit, number, work);
            }
            (_, _, Some(Device::Gpu(number))) if block.is_some_and(|block| self.block_comes(block)) => {
                self.bring(stage, unit, number, work);
            }
            (_, _, Some(Device::Gpu(number))) if unit.role == Role::RoutedExpert => {
                let comes = self.plan.fetch.is_some_and(|fetch| fetch.gpu == number);
                let fetched = if comes && decode { self.fetched } else { 0.0 };
                let (left, comes) = ((1.0 - kept) * (1.0 - fetched), (1.0 - kept) * fetched);
                stage.cpu_beside_s += self.on_cpu(unit, tokens, work) * left;
                stage.beside_bytes += bytes * left;
                if let Some(gpu) = self.gpu(number).filter(|_| fetched + kept > 0.0) {
                    stage.fetched_bytes += bytes * comes;
                    stage.fetch_s += bytes * comes / gpu.link.rate.0.max(1.0)
                        + self.unit_on_gpu(number, unit, work.times(comes + kept));
                }
            }
            (_, _, Some(Device::Gpu(number))) => {
                // There for the processor, back for the GPU.
                stage.crossings_s += 2.0 * self.crossing(number, tokens);
                stage.weights_s += self.on_cpu(unit, tokens, work);
                stage.ram_bytes += bytes;
            }
            // Each GPU has copies of a layer's vectors.
            _ if block.is_none() && self.layer_on_gpu(unit, pass) => {}
            _ => {
                stage.weights_s += self.on_cpu(unit, tokens, work);
                stage.ram_bytes += bytes;
            }
        }
    }

    fn block_comes(&self, block: Block) -> bool {
        matches!(block, Block::Ffn(layer) if self.comes[layer as usize])
    }

    fn layer_on_gpu(&self, unit: &Unit, pass: Pass) -> bool {
        let layer = unit.layer.and_then(|layer| self.devices(pass).layers.get(layer as usize));
        layer.is_some_and(|layer| [layer.attention, layer.ffn].iter().any(|device| *device != Device::Cpu))
    }
}

/// Tokens of a pass that meet a unit: after a prompt only the last token's logits are wanted.
fn tokens_of(unit: &Unit, pass: Pass) -> u32 {
    if unit.layer.is_none() && unit.role != Role::Embedding { 1 } else { pass.tokens() }
}

/// Units, with experts of a tensor that lie in one place as one where nobody counted which are chosen: of R1's 45,000 units a thousand are left.
fn units(plan: &Plan, inventory: &Inventory, traffic: Traffic<'_>) -> Vec<(usize, f64)> {
    let mut units: Vec<(usize, f64)> = Vec::new();
    let alike = |(a, first): (&Unit, &Placement), (b, second): (&Unit, &Placement)| {
        (a.tensor, a.bytes, a.rows) == (b.tensor, b.bytes, b.rows)
            && (a.expert.is_some() && b.expert.is_some())
            && (first.home, first.prefill, first.decode, first.exchanges)
                == (second.home, second.prefill, second.decode, second.exchanges)
    };
    for (index, pair) in inventory.units.iter().zip(&plan.placements).enumerate() {
        match units.last_mut() {
            Some((first, count))
                if traffic.counted().is_none() && alike((&inventory.units[*first], &plan.placements[*first]), pair) =>
            {
                *count += 1.0;
            }
            _ => units.push((index, 1.0)),
        }
    }
    units
}

/// Bytes per second that RAM gives to the processor and a link at the same time: what the fastest of all kernels reads, or more than the usual one.
fn ram_together(machine: &Machine) -> f64 {
    let products = machine.processor.iter().flat_map(|processor| processor.products.values());
    let fastest = products.map(|product| product.bytes_per_s[0]).fold(1.0, f64::max);
    fastest.max(machine.ram_read.rate.0 * RAM_SHARED)
}

impl Work {
    fn times(self, share: f64) -> Self {
        Self { bytes: self.bytes * share, operations: self.operations * share }
    }
}
