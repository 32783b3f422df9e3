//! What GPUs take of a pass: kernels, each its start and what it reads or computes, and crossings of activations between devices.
//!
//! One token's kernels are small: see [`card`](crate::card). A run of layers that one card has all of is launched as a whole and takes what its kernels
//! do; elsewhere the processor asks for each kernel, and the card waits where asking takes longer.

use super::{Experts, Pass, Passes, Stage, Work};
use crate::card::CardKernels;
use crate::forecast::layers::Numbers;
use crate::{Device, Gpu, Role, Unit};

/// How many times longer the engine takes to ask for a kernel than the driver to take it: 240 kernels of a model of 16 layers went one by one in 1.33 ms, 5.5 µs
/// each, on a machine whose driver takes 2.9 to 3.6 (-h100-models, -h100-kernels).
const ASKING: f64 = 1.7;
/// Copies of an expert that is fetched: gate, up and down.
const PARTS: f64 = 3.0;
/// Bytes that a card moves for a number of a step which is no product: some are read twice, and what comes out is rounded as well.
const STEP_BYTES: f64 = 8.0;

/// Kernels in a row, beside products, and their seconds.
type Small = (f64, f64);

/// Norm, heads, attention in splits and their sum, rounding.
fn attention(kernels: &CardKernels) -> Small {
    (5.0, kernels.norm_s + kernels.heads_s + kernels.attention_s + kernels.round_s)
}

/// The same with latents: the narrow vector has a norm of its own.
fn latents(kernels: &CardKernels) -> Small {
    (6.0, 2.0 * kernels.norm_s + kernels.heads_s + kernels.latents_s + kernels.round_s)
}

/// Norm, what joins gate and up.
fn dense(kernels: &CardKernels) -> Small {
    (2.0, kernels.norm_s + kernels.gate_s)
}

/// The same with a router's choice.
fn mixture(kernels: &CardKernels) -> Small {
    (3.0, kernels.norm_s + kernels.route_s + kernels.gate_s)
}

impl Passes<'_> {
    /// Seconds of a card with a unit: of a matrix with its kernel's start, of experts without.
    pub(super) fn unit_on_gpu(&self, number: u32, unit: &Unit, work: Work) -> f64 {
        let Some(gpu) = self.gpu(number) else { return 0.0 };
        let quant = self.inventory.tensor_of(unit).quant;
        let product = gpu.kernels.product(quant, gpu.read.rate.0);
        let start = if self.has_kernel(unit) { product.start_s } else { 0.0 };
        let numbers = work.bytes / quant.block_bytes() as f64 * quant.block_elements() as f64;
        let columns = work.operations / (2.0 * numbers).max(1.0);
        start + longer(work, product.bytes_per_s, gpu.kernels.operations(quant, columns, gpu.ops_per_second))
    }

    /// Whether a unit is a matrix with a kernel of its own.
    pub(super) fn has_kernel(&self, unit: &Unit) -> bool {
        let is_looked_up = unit.role == Role::Embedding && !self.traffic.tied();
        unit.role != Role::RoutedExpert && !is_looked_up && !self.inventory.is_vector(unit)
    }

    /// Seconds of a card's attention with what it reads and computes.
    pub(super) fn attention_on_gpu(&self, number: u32, work: Work, pass: Pass) -> f64 {
        let Some(gpu) = self.gpu(number) else { return 0.0 };
        let usual = gpu.ops_per_second;
        let operations = if matches!(pass, Pass::Decode { .. }) { usual } else { gpu.kernels.attention(usual) };
        longer(work, gpu.read.rate.0, operations)
    }

    /// Seconds until the residual stream of so many tokens is on the other side.
    pub(super) fn crossing(&self, number: u32, tokens: u32) -> f64 {
        let Some(gpu) = self.gpu(number) else { return 0.0 };
        let bytes = 4.0 * f64::from(self.inventory.shape.embedding) * f64::from(tokens);
        gpu.crossing_seconds() + bytes / gpu.link.rate.0.max(1.0)
    }

    /// Adds the steps of a layer's blocks on a GPU that are no products, and the crossings of its mixture.
    pub(super) fn launch(&self, stage: &mut Stage, layer: usize, pass: Pass) {
        let devices = self.devices(pass).layers[layer];
        let numbers = &self.layers[layer];
        let attention = if self.inventory.shape.latent.is_some() { latents } else { attention };
        let ffn = if self.mixtures[layer].is_some() { mixture } else { dense };
        self.steps(stage, devices.attention, (attention, &numbers.attention), pass);
        self.steps(stage, devices.ffn, (ffn, &numbers.ffn), pass);
        for gpu in [devices.attention, devices.ffn].into_iter().filter_map(|device| self.card(device)) {
            if !(self.alone[layer] && matches!(pass, Pass::Decode { .. })) {
                stage.gpu_s = stage.gpu_s.max(stage.kernels * asking(gpu));
            }
        }
        let (Some(gpu), Some(Experts { here, away })) = (self.card(devices.ffn), self.mixtures[layer]) else { return };
        let start_s = |quant| 2.0 * gpu.kernels.product(quant, gpu.read.rate.0).experts_s;
        stage.gpu_beside_s += here.map_or(0.0, start_s);
        if let (Device::Gpu(number), Some(away)) = (devices.ffn, away) {
            let there_and_back = 2.0 * self.crossing(number, pass.tokens());
            if matches!(pass, Pass::Streamed { .. }) {
                stage.beside_crossings_s = there_and_back;
                return;
            }
            stage.crossings_s += there_and_back;
            if stage.fetch_s > 0.0 {
                stage.fetch_s += gpu.kernels.round_s + start_s(away);
                // The processor asks for all copies before it begins with its own experts.
                let copies =
                    PARTS * self.fetched * (1.0 - self.kept.at(layer)) * f64::from(self.inventory.shape.experts_used);
                stage.crossings_s += copies * asking(gpu);
            }
        }
    }

    /// Adds what a block has on a GPU beside products: each step its kernel, or for many tokens what it moves.
    fn steps(
        &self,
        stage: &mut Stage,
        device: Device,
        (small, numbers): (fn(&CardKernels) -> Small, &Numbers),
        pass: Pass,
    ) {
        let Some(gpu) = self.card(device) else { return };
        let (kernels, seconds) = small(&gpu.kernels);
        let moved = STEP_BYTES * numbers.moved() * f64::from(pass.tokens());
        stage.kernels += kernels;
        stage.gpu_s += seconds.max(moved / gpu.read.rate.0.max(1.0));
    }

    fn card(&self, device: Device) -> Option<&Gpu> {
        match device {
            Device::Gpu(number) => self.gpu(number),
            Device::Cpu => None,
        }
    }

    /// Adds a crossing wherever the residual stream changes its device, from the table of vectors to the logits.
    pub(super) fn cross(&self, stages: &mut [Stage], pass: Pass) {
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
        last.gpu_s += self.card(devices.output).map_or(0.0, |gpu| gpu.kernels.norm_s);
        to(last, Device::Cpu, 1);
    }
}

/// Seconds of what a card reads or computes, whichever takes longer; operations count where somebody knows how fast they are.
fn longer(work: Work, bytes_per_s: f64, operations_per_s: f64) -> f64 {
    let computing = if operations_per_s > 0.0 { work.operations / operations_per_s } else { 0.0 };
    (work.bytes / bytes_per_s.max(1.0)).max(computing)
}

/// Seconds until the processor has asked for a kernel or a copy.
pub(super) fn asking(gpu: &Gpu) -> f64 {
    ASKING * gpu.launch_seconds()
}
