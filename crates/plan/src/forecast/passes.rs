//! The seconds of one pass, layer by layer.

use super::depth;
use super::streams::{self, Coming, Ring};
use crate::blocks::{Block, Devices, block_of};
use crate::traffic::Traffic;
use crate::{Device, Fetch, Gpu, Inventory, Machine, Placement, Plan, Role, Tier, Unit, cost};

/// Kernels of a block on a GPU: norm, products, heads, attention in splits and their sum, output.
const ATTENTION_KERNELS: f64 = 8.0;
/// The same with latents, which are made in two steps and expanded or absorbed.
const LATENT_KERNELS: f64 = 14.0;
/// Norm, gates and ups, activation, down, sum.
const FFN_KERNELS: f64 = 5.0;
/// The same with a router, its choice, and experts beside what every token passes.
const MIXTURE_KERNELS: f64 = 12.0;
/// What fetched experts cost beside their bytes: the input in 8 bits, two products, and marks between streams.
const FETCH_KERNELS: f64 = 6.0;
/// How much more RAM gives to the processor and a link together than the processor's kernels read by themselves, at least: those reach 85 to 90 %
/// of what plain reads do.
const RAM_SHARED: f64 = 1.1;
/// Norm, product, soft cap.
const OUTPUT_KERNELS: f64 = 3.0;

/// What passes through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// One token, at [`depth`].
    Decode,
    /// So many first tokens of a prompt, computed where weights live.
    Prompt(u32),
    /// The same with weights streamed to a GPU.
    Streamed(u32),
}

impl Pass {
    const fn tokens(self) -> u32 {
        match self {
            Self::Decode => 1,
            Self::Prompt(tokens) | Self::Streamed(tokens) => tokens,
        }
    }
}

/// Bytes that a processor reads and operations that it does at the same time.
#[derive(Clone, Copy, Default)]
struct Work {
    bytes: f64,
    operations: f64,
}

/// What one stage costs.
#[derive(Clone, Copy, Default)]
struct Stage {
    disk_bytes: f64,
    /// Streamed to a GPU.
    link_s: f64,
    /// Streamed to a GPU in decode too: what it does with them, behind all else.
    comes: Coming,
    /// One after the other: the processor's blocks, GPUs' blocks, and crossings between them.
    cpu: Work,
    gpu_s: f64,
    crossings_s: f64,
    /// At the same time: routed experts outside a GPU's memory, and those inside with what every token passes.
    cpu_beside: Work,
    gpu_beside_s: f64,
    /// And of the first those that are copied to a GPU: seconds of link and products, and bytes.
    fetch_s: f64,
    fetched_bytes: f64,
}

/// A plan with what its passes need to know.
pub(super) struct Passes<'a> {
    plan: &'a Plan,
    inventory: &'a Inventory,
    machine: &'a Machine,
    traffic: Traffic<'a>,
    /// Rates of the processor, none of them zero.
    ram: f64,
    /// What RAM gives to all cores' kernels.
    ram_together: f64,
    disk: f64,
    operations: f64,
    /// The ring of the first GPU that has one.
    ring: Ring,
    /// Devices of blocks in decode, and in prompts with streamed weights.
    decode: Devices,
    /// By layer, whether its feed-forward matrices are copied to a GPU in decode too.
    comes: Vec<bool>,
    streamed: Devices,
    /// The share of a token's experts outside a GPU's memory that are copied to one.
    fetched: f64,
    /// By layer, whether some of its routed experts live outside a GPU's memory; none for dense layers.
    mixtures: Vec<Option<bool>>,
}

impl<'a> Passes<'a> {
    pub(super) fn new(plan: &'a Plan, inventory: &'a Inventory, machine: &'a Machine, traffic: Traffic<'a>) -> Self {
        let share = f64::from(plan.threads.min(machine.cores)) / f64::from(machine.cores.max(1));
        let decode = Devices { layers: plan.blocks.clone(), output: plan.output };
        let (mut streamed, mut mixtures) = (decode.clone(), vec![None; plan.blocks.len()]);
        for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
            let block = block_of(inventory, unit, traffic.tied());
            if let (Device::Gpu(_), Some(device)) = (placement.prefill, block.and_then(|block| streamed.get_mut(block)))
            {
                *device = placement.prefill;
            }
            let layer = unit.layer.and_then(|layer| mixtures.get_mut(layer as usize));
            if let (Role::RoutedExpert, Some(elsewhere)) = (unit.role, layer) {
                *elsewhere = Some(*elsewhere == Some(true) || !matches!(placement.home, Tier::Gpu(_)));
            }
        }
        Self {
            plan,
            inventory,
            machine,
            traffic,
            ram: (machine.ram_read.rate.0 * share).max(1.0),
            ram_together: machine.ram_read.rate.0.max(1.0),
            disk: machine.disk_read.rate.0.max(1.0),
            operations: (machine.cpu_ops_per_second * share).max(1.0),
            comes: comes(plan, inventory),
            decode,
            streamed,
            ring: Ring::of(plan, machine),
            fetched: plan.fetch.map_or(0.0, share_of),
            mixtures,
        }
    }

    /// The fewest experts of a token to copy to a GPU in decode with which no other number makes a token faster.
    pub(super) fn best_fetch(&mut self, fetch: Fetch) -> u32 {
        let mut best = (f64::INFINITY, 0);
        for experts in 0..=fetch.experts {
            self.fetched = share_of(Fetch { experts, ..fetch });
            let seconds = self.seconds(Pass::Decode);
            // Less than a hundredth is no gain.
            if seconds < best.0 * 0.99 {
                best = (seconds, experts);
            }
        }
        self.fetched = share_of(Fetch { experts: best.1, ..fetch });
        best.1
    }

    /// The seconds of a pass.
    pub(super) fn seconds(&self, pass: Pass) -> f64 {
        let layers = self.plan.blocks.len();
        let mut stages = vec![Stage::default(); layers + 1];
        for (unit, placement) in self.inventory.units.iter().zip(&self.plan.placements) {
            let stage = unit.layer.map_or(layers, |layer| (layer as usize).min(layers));
            self.read(&mut stages[stage], unit, placement, pass);
        }
        for (layer, stage) in stages[..layers].iter_mut().enumerate() {
            self.attend(stage, layer, pass);
            self.launch(stage, layer, pass);
        }
        self.cross(&mut stages, pass);
        if !self.comes.contains(&true) || matches!(pass, Pass::Streamed(_)) {
            return stages.iter().map(|stage| self.stage_seconds(stage)).sum();
        }
        let row: Vec<_> = stages.iter().map(|stage| (self.stage_seconds(stage), stage.comes)).collect();
        let bytes: f64 = stages.iter().map(|stage| stage.cpu.bytes + stage.cpu_beside.bytes + stage.comes.bytes).sum();
        streams::seconds(&row, self.ring).max(bytes / (self.ram_together * RAM_SHARED))
    }

    /// Layers whose feed-forward matrices may be copied to a GPU in decode: the processor's, all of them in RAM and handed to that GPU for prompts.
    pub(super) fn may_come(&self) -> Vec<u32> {
        let Some((gpu, _)) = self.plan.device_staging.first() else { return Vec::new() };
        let mut may: Vec<bool> = self.decode.layers.iter().map(|layer| layer.ffn == Device::Cpu).collect();
        let mut any = vec![false; may.len()];
        for (unit, placement) in self.inventory.units.iter().zip(&self.plan.placements) {
            let Some(layer) = unit.layer.map(|layer| layer as usize).filter(|layer| *layer < may.len()) else {
                continue;
            };
            let block = block_of(self.inventory, unit, self.traffic.tied());
            if block == Some(Block::Ffn(layer as u32)) {
                any[layer] = true;
                may[layer] &= unit.role == Role::DenseFfn
                    && placement.home == Tier::Ram
                    && placement.prefill == Device::Gpu(*gpu);
            }
        }
        (0..).zip(may.into_iter().zip(any)).filter(|(_, (may, any))| *may && *any).map(|(layer, _)| layer).collect()
    }

    /// Has these layers' feed-forward matrices copied to the GPU in decode.
    pub(super) fn come(&mut self, layers: &[u32]) {
        let Some((gpu, _)) = self.plan.device_staging.first() else { return };
        self.comes.fill(false);
        self.decode.layers.clone_from(&self.plan.blocks);
        for layer in layers {
            self.comes[*layer as usize] = true;
            self.decode.layers[*layer as usize].ffn = Device::Gpu(*gpu);
        }
    }

    fn stage_seconds(&self, stage: &Stage) -> f64 {
        let cpu = |work: Work| (work.bytes / self.ram).max(work.operations / self.operations);
        let together = stage.cpu_beside.bytes + stage.fetched_bytes;
        let ram = together / (self.ram_together * RAM_SHARED);
        let fetch = if stage.fetched_bytes > 0.0 { stage.fetch_s.max(ram) } else { 0.0 };
        let beside = cpu(stage.cpu_beside).max(stage.gpu_beside_s).max(fetch);
        let computing = cpu(stage.cpu) + stage.gpu_s + beside + stage.crossings_s;
        computing.max(stage.disk_bytes / self.disk).max(stage.link_s)
    }

    /// The devices of blocks in this pass.
    const fn devices(&self, pass: Pass) -> &Devices {
        match pass {
            Pass::Decode | Pass::Prompt(_) => &self.decode,
            Pass::Streamed(_) => &self.streamed,
        }
    }

    fn gpu(&self, number: u32) -> Option<&'a Gpu> {
        self.machine.gpus.get(number as usize)
    }

    /// Adds what a unit costs its stage.
    fn read(&self, stage: &mut Stage, unit: &Unit, placement: &Placement, pass: Pass) {
        // After a prompt only the last token's logits are wanted.
        let tokens = if unit.layer.is_none() && unit.role != Role::Embedding { 1 } else { pass.tokens() };
        let bytes = unit.bytes.as_f64() * self.traffic.touched(unit, tokens);
        let work = Work { bytes, operations: self.traffic.operations(unit, tokens) };
        if placement.home == Tier::Disk {
            stage.disk_bytes += bytes;
        }
        let block = block_of(self.inventory, unit, self.traffic.tied());
        let device = block.and_then(|block| self.devices(pass).get(block));
        match (placement.home, placement.prefill, device) {
            (Tier::Gpu(number), ..) => {
                let seconds = self.on_gpu(number, work);
                let beside = matches!(unit.role, Role::RoutedExpert | Role::SharedExpert);
                *(if beside { &mut stage.gpu_beside_s } else { &mut stage.gpu_s }) += seconds;
            }
            (_, Device::Gpu(number), _) if matches!(pass, Pass::Streamed(_)) => {
                stage.link_s += self.gpu(number).map_or(0.0, |gpu| bytes / gpu.link.rate.0.max(1.0));
                stage.gpu_s += self.on_gpu(number, work);
            }
            (_, _, Some(Device::Gpu(number))) if block.is_some_and(|block| self.block_comes(block)) => {
                stage.comes.bytes += bytes;
                stage.comes.gpu_s += self.on_gpu(number, work);
            }
            (_, _, Some(Device::Gpu(number))) if unit.role == Role::RoutedExpert => {
                let fetched = if pass == Pass::Decode { self.fetched } else { 0.0 };
                add(&mut stage.cpu_beside, work.times(1.0 - fetched));
                if let Some(gpu) = self.gpu(number).filter(|_| fetched > 0.0) {
                    let work = work.times(fetched);
                    stage.fetched_bytes += work.bytes;
                    stage.fetch_s += work.bytes / gpu.link.rate.0.max(1.0) + self.on_gpu(number, work);
                }
            }
            (_, _, Some(Device::Gpu(number))) => {
                // There for the processor, back for the GPU.
                stage.crossings_s += 2.0 * self.crossing(number, tokens);
                add(&mut stage.cpu, work);
            }
            // Each GPU has copies of a layer's vectors.
            _ if block.is_none() && self.layer_on_gpu(unit, pass) => {}
            _ => add(&mut stage.cpu, work),
        }
    }

    fn block_comes(&self, block: Block) -> bool {
        matches!(block, Block::Ffn(layer) if self.comes[layer as usize])
    }

    fn layer_on_gpu(&self, unit: &Unit, pass: Pass) -> bool {
        let layer = unit.layer.and_then(|layer| self.devices(pass).layers.get(layer as usize));
        layer.is_some_and(|layer| [layer.attention, layer.ffn].iter().any(|device| *device != Device::Cpu))
    }

    fn on_gpu(&self, number: u32, work: Work) -> f64 {
        let Some(gpu) = self.gpu(number) else { return 0.0 };
        let computing = if gpu.ops_per_second > 0.0 { work.operations / gpu.ops_per_second } else { 0.0 };
        (work.bytes / gpu.read.rate.0.max(1.0)).max(computing)
    }

    /// Seconds until the residual stream of so many tokens is on the other side.
    fn crossing(&self, number: u32, tokens: u32) -> f64 {
        let Some(gpu) = self.gpu(number) else { return 0.0 };
        let bytes = 4.0 * f64::from(self.inventory.shape.embedding) * f64::from(tokens);
        gpu.crossing_seconds() + bytes / gpu.link.rate.0.max(1.0)
    }

    /// Adds a layer's attention to its stage: what it reads of the cache, and its operations.
    fn attend(&self, stage: &mut Stage, layer: usize, pass: Pass) {
        let shape = &self.inventory.shape;
        let Some((k, v)) = shape.kv_per_token.get(layer).filter(|(k, v)| k + v > 0) else { return };
        let (row_k, row_v) = (f64::from(shape.kv_row.0), f64::from(shape.kv_row.1));
        let heads = if *k > 0 || *v > 0 { f64::from(shape.heads) } else { 0.0 };
        let work = match pass {
            Pass::Decode => {
                let (kv, depth) = (&self.plan.kv, depth(self.plan));
                let widths = shape.latent.map_or(row_k + row_v, |latent| row_k + f64::from(latent.rank));
                let read = cost::kv_layer(shape, layer, depth, kv.k_type, kv.v_type);
                Work { bytes: read.as_f64(), operations: 2.0 * heads * widths * f64::from(depth) }
            }
            Pass::Prompt(tokens) | Pass::Streamed(tokens) => {
                let expanded = shape.latent.map(|latent| f64::from(latent.key) + f64::from(latent.value));
                let operations = heads * expanded.unwrap_or(row_k + row_v) * f64::from(tokens).powi(2);
                Work { bytes: 0.0, operations }
            }
        };
        match self.devices(pass).get(Block::Attention(layer as u32)) {
            Some(Device::Gpu(number)) => stage.gpu_s += self.on_gpu(number, work),
            _ => add(&mut stage.cpu, work),
        }
    }

    /// Adds the launches of a layer's blocks on a GPU, and the crossings of its mixture.
    fn launch(&self, stage: &mut Stage, layer: usize, pass: Pass) {
        let devices = self.devices(pass).layers[layer];
        let attention = if self.inventory.shape.latent.is_some() { LATENT_KERNELS } else { ATTENTION_KERNELS };
        let ffn = if self.mixtures[layer].is_some() { MIXTURE_KERNELS } else { FFN_KERNELS };
        for (device, kernels) in [(devices.attention, attention), (devices.ffn, ffn)] {
            stage.gpu_s += self.launches(device, kernels);
        }
        if let (Device::Gpu(number), Some(true)) = (devices.ffn, self.mixtures[layer])
            && !matches!(pass, Pass::Streamed(_))
        {
            stage.crossings_s += 2.0 * self.crossing(number, pass.tokens());
            if stage.fetched_bytes > 0.0 {
                stage.fetch_s += self.launches(devices.ffn, FETCH_KERNELS);
            }
        }
    }

    fn launches(&self, device: Device, kernels: f64) -> f64 {
        match device {
            Device::Gpu(number) => self.gpu(number).map_or(0.0, |gpu| kernels * gpu.launch_seconds()),
            Device::Cpu => 0.0,
        }
    }

    /// Adds a crossing wherever the residual stream changes its device, from the table of vectors to the logits.
    fn cross(&self, stages: &mut [Stage], pass: Pass) {
        let devices = self.devices(pass);
        let mut at = Device::Cpu;
        let mut to = |stage: &mut Stage, device: Device, tokens: u32| {
            if device != at {
                // From one GPU to another by way of RAM.
                let gpus = [at, device].into_iter().filter_map(|device| match device {
                    Device::Gpu(number) => Some(number),
                    Device::Cpu => None,
                });
                stage.crossings_s += gpus.map(|number| self.crossing(number, tokens)).sum::<f64>();
                at = device;
            }
        };
        let [layers @ .., last] = stages else { return };
        for (stage, layer) in layers.iter_mut().zip(&devices.layers) {
            to(stage, layer.attention, pass.tokens());
            to(stage, layer.ffn, pass.tokens());
        }
        to(last, devices.output, 1);
        last.gpu_s += self.launches(devices.output, OUTPUT_KERNELS);
        to(last, Device::Cpu, 1);
    }
}

impl Work {
    fn times(self, share: f64) -> Self {
        Self { bytes: self.bytes * share, operations: self.operations * share }
    }
}

/// By layer, whether the plan has its feed-forward matrices copied to a GPU in decode.
fn comes(plan: &Plan, inventory: &Inventory) -> Vec<bool> {
    let mut comes = vec![false; plan.blocks.len()];
    for (_, unit) in inventory.iter().filter(|(id, _)| plan.comes(*id)) {
        if let Some(layer) = unit.layer.and_then(|layer| comes.get_mut(layer as usize)) {
            *layer = true;
        }
    }
    comes
}

/// The share of a token's choice that comes.
fn share_of(fetch: Fetch) -> f64 {
    f64::from(fetch.experts) / f64::from(fetch.of)
}

fn add(work: &mut Work, more: Work) {
    work.bytes += more.bytes;
    work.operations += more.operations;
}
