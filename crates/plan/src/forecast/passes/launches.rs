//! What GPUs cost beside their work: launches of kernels, and crossings of activations between devices.

use super::{Pass, Passes, Stage};
use crate::Device;

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
/// Norm, product, soft cap.
const OUTPUT_KERNELS: f64 = 3.0;
/// What a kernel costs of a launch where one launch replays a run of layers: of a model of 16 layers on an H100 the 240 kernels of a token took
/// 0.74 ms beside their bytes so, and 1.06 ms one by one.
const REPLAYED: f64 = 0.7;

impl Passes<'_> {
    /// Seconds until the residual stream of so many tokens is on the other side.
    pub(super) fn crossing(&self, number: u32, tokens: u32) -> f64 {
        let Some(gpu) = self.gpu(number) else { return 0.0 };
        let bytes = 4.0 * f64::from(self.inventory.shape.embedding) * f64::from(tokens);
        gpu.crossing_seconds() + bytes / gpu.link.rate.0.max(1.0)
    }

    /// Adds the launches of a layer's blocks on a GPU, and the crossings of its mixture.
    pub(super) fn launch(&self, stage: &mut Stage, layer: usize, pass: Pass) {
        let devices = self.devices(pass).layers[layer];
        let attention = if self.inventory.shape.latent.is_some() { LATENT_KERNELS } else { ATTENTION_KERNELS };
        let ffn = if self.mixtures[layer].is_some() { MIXTURE_KERNELS } else { FFN_KERNELS };
        let share = if self.alone[layer] && matches!(pass, Pass::Decode { .. }) { REPLAYED } else { 1.0 };
        for (device, kernels) in [(devices.attention, attention), (devices.ffn, ffn)] {
            stage.gpu_s += share * self.launches(device, kernels);
        }
        if let (Device::Gpu(number), Some(true)) = (devices.ffn, self.mixtures[layer]) {
            let there_and_back = 2.0 * self.crossing(number, pass.tokens());
            if matches!(pass, Pass::Streamed { .. }) {
                stage.beside_crossings_s = there_and_back;
                return;
            }
            stage.crossings_s += there_and_back;
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
        last.gpu_s += self.launches(devices.output, OUTPUT_KERNELS);
        to(last, Device::Cpu, 1);
    }
}
