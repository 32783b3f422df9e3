//! The processor's part of a pass: products, attention, and what is neither.

use super::{Pass, Passes, Stage, Work};
use crate::blocks::Block;
use crate::forecast::layers::Numbers;
use crate::processor::Processor;
use crate::{Device, Unit, cost};

impl Passes<'_> {
    /// Seconds of the processor with a unit.
    pub(super) fn on_cpu(&self, unit: &Unit, tokens: u32, work: Work) -> f64 {
        let plainly = (work.bytes / self.ram).max(work.operations / self.operations);
        let Some(processor) = &self.machine.processor else { return plainly };
        if self.inventory.is_vector(unit) {
            // Unpacked where it is used, beside numbers that are counted as such.
            return 0.0;
        }
        if work.operations <= 0.0 {
            return plainly;
        }
        let rows = unit.rows as f64 * work.bytes / unit.bytes.as_f64().max(1.0);
        let columns = self.traffic.columns(unit, tokens);
        let quant = self.inventory.tensor_of(unit).quant;
        let job = self.jobs[unit.tensor as usize];
        processor
            .product_s(quant, (work.bytes, rows), columns, self.plan.threads, (job, self.read_again))
            .unwrap_or(plainly)
    }

    /// Adds a layer's attention to its stage: what it reads of the cache, and its operations.
    pub(super) fn attend(&self, stage: &mut Stage, layer: usize, pass: Pass) {
        let shape = &self.inventory.shape;
        let Some((k, v)) = shape.kv_per_token.get(layer).filter(|(k, v)| k + v > 0) else { return };
        let (row_k, row_v) = (f64::from(shape.kv_row.0), f64::from(shape.kv_row.1));
        let (heads, kept) = (f64::from(shape.heads), f64::from(*k) + f64::from(*v));
        let (first, tokens) = (f64::from(pass.first()), f64::from(pass.tokens()));
        let (widths, bytes, positions) = if let Pass::Decode { depth } = pass {
            let kv = &self.plan.kv;
            let read = cost::kv_layer(shape, layer, depth, kv.k_type, kv.v_type);
            (shape.latent.map_or(row_k + row_v, |latent| row_k + f64::from(latent.rank)), read.as_f64(), first)
        } else {
            let expanded = shape.latent.map(|latent| f64::from(latent.key) + f64::from(latent.value));
            (expanded.unwrap_or(row_k + row_v), 0.0, first + tokens / 2.0)
        };
        let work = Work { bytes, operations: 2.0 * heads * widths * tokens * positions };
        if let Some(Device::Gpu(number)) = self.devices(pass).get(Block::Attention(layer as u32)) {
            stage.gpu_s += self.attention_on_gpu(number, work, pass);
            return;
        }
        let threads = self.plan.threads;
        stage.ram_bytes += work.bytes;
        stage.attention_s += match &self.machine.processor {
            None => (work.bytes / self.ram).max(work.operations / self.operations),
            // Each number that is kept serves as many heads as there are operations with it.
            Some(cpu) if tokens <= 1.0 => {
                let heads_kept = (f64::from(*k) / row_k.max(1.0)).max(1.0);
                cpu.token_attention_s((kept, heads_kept), heads * widths / kept, first, threads)
            }
            Some(cpu) => cpu.prompt_attention_s(heads, widths, first, tokens, threads),
        };
    }

    /// Adds what a layer does on the processor besides products and attention.
    pub(super) fn vectors(&self, stage: &mut Stage, layer: usize, pass: Pass) {
        let (Some(processor), Some(numbers)) = (&self.machine.processor, self.layers.get(layer)) else { return };
        let devices = self.devices(pass).layers[layer];
        for (device, numbers) in [(devices.attention, &numbers.attention), (devices.ffn, &numbers.ffn)] {
            if device == Device::Cpu {
                stage.vectors_s += self.numbers(processor, numbers, pass.tokens());
            }
        }
    }

    /// Adds what the last token's logits take after the product, wherever that was: they are copied and checked, and one of them is chosen.
    pub(super) fn logits(&self, stage: &mut Stage) {
        let Some(processor) = &self.machine.processor else { return };
        let passes = Numbers { add: 2.0 * f64::from(self.inventory.shape.vocabulary), ..Numbers::default() };
        stage.vectors_s += self.numbers(processor, &passes, 1);
    }

    fn numbers(&self, processor: &Processor, numbers: &Numbers, tokens: u32) -> f64 {
        let (v, threads) = (&processor.vectors, self.plan.threads);
        // One token's numbers are too few to share out.
        let shared = processor.slower(if tokens > 1 { threads } else { 1 });
        let by_all = numbers.norm * v.norm_s
            + numbers.round * v.round_s
            + numbers.activate * v.activate_s
            + numbers.turn * v.turn_s;
        let by_one = numbers.add * v.add_s + numbers.keep * v.keep_s + numbers.choose * v.choose_s;
        f64::from(tokens) * (by_all * shared + by_one) + numbers.jobs * processor.step_s
    }
}
