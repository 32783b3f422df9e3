//! What a layer does on the processor besides products and attention, counted in numbers, and which products are one job.
//!
//! Owns the counts, read from shapes and names of tensors. Must never know seconds or devices.

use std::collections::HashMap;

use crate::cost::RUN_NUMBERS;
use crate::traffic::Traffic;
use crate::{Inventory, ModelShape, Role, Unit};

/// Numbers that one token has in the vectors of a block, and jobs of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    pub(super) norm: f64,
    pub(super) add: f64,
    pub(super) round: f64,
    pub(super) activate: f64,
    pub(super) turn: f64,
    pub(super) keep: f64,
    pub(super) choose: f64,
    /// Jobs for all threads, however many tokens there are.
    pub(super) jobs: f64,
}

impl Numbers {
    /// Numbers that steps take, one kind after another.
    pub(super) fn moved(&self) -> f64 {
        self.norm + self.add + self.round + self.activate + self.turn + self.keep + self.choose
    }
}

/// A layer's two blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Layer {
    pub(super) attention: Numbers,
    pub(super) ffn: Numbers,
}

/// The counts of every layer.
pub(super) fn layers(inventory: &Inventory) -> Vec<Layer> {
    let shape = &inventory.shape;
    let mut layers: Vec<Layer> = (0..shape.layers as usize).map(|layer| bare(shape, layer)).collect();
    // Widths of inputs of attention's matrices that were met: those of one width read one input.
    let mut inputs: Vec<Vec<u64>> = vec![Vec::new(); layers.len()];
    for unit in &inventory.units {
        let Some(layer) = unit.layer.map(|layer| layer as usize).filter(|layer| *layer < layers.len()) else {
            continue;
        };
        // The experts of one tensor are alike.
        if unit.expert.is_none_or(|expert| expert == 0) {
            count(&mut layers[layer], &mut inputs[layer], inventory, unit);
        }
    }
    layers
}

/// By tensor, the bytes of the job that one token's products with it are part of: the matrices of a layer that read the same input are handed to the
/// threads at once, and so are a token's experts.
pub(super) fn jobs(inventory: &Inventory, traffic: Traffic<'_>) -> Vec<f64> {
    let mut bytes = vec![0.0; inventory.tensors.len()];
    let mut key = vec![None; inventory.tensors.len()];
    for unit in &inventory.units {
        let tensor = unit.tensor as usize;
        bytes[tensor] += traffic.read_per_token(unit);
        if key[tensor].is_none() {
            let (row, name) = (inventory.tensor_of(unit).row_elements(), inventory.tensor_of(unit).name.as_str());
            let last = name.contains("down") || name.contains("attn_output");
            key[tensor] = unit.layer.map(|layer| (layer, unit.role, row, last));
        }
    }
    let mut together: HashMap<_, f64> = HashMap::new();
    for (key, bytes) in key.iter().zip(&bytes) {
        *together.entry(*key).or_default() += bytes;
    }
    // What belongs to no layer is a job by itself.
    key.iter().zip(bytes).map(|(key, bytes)| if key.is_some() { together[key] } else { bytes }).collect()
}

/// What every layer has: both blocks join the residual stream, and attention turns and keeps what it made.
fn bare(shape: &ModelShape, layer: usize) -> Layer {
    let width = f64::from(shape.embedding);
    let (k, v) = shape.kv_per_token.get(layer).map_or((0.0, 0.0), |(k, v)| (f64::from(*k), f64::from(*v)));
    let queries = if k > 0.0 && shape.latent.is_none() { heads(shape) } else { 0.0 };
    let attention = Numbers { add: width, turn: queries + k, keep: k + v, jobs: 1.0, ..Numbers::default() };
    Layer { attention, ffn: Numbers { add: width, ..Numbers::default() } }
}

/// Numbers of all heads' queries.
fn heads(shape: &ModelShape) -> f64 {
    f64::from(shape.heads) * f64::from(shape.kv_row.0)
}

/// Numbers that a row is rounded as: whole runs.
fn rounded(row: u64) -> f64 {
    row.next_multiple_of(RUN_NUMBERS) as f64
}

fn count(layer: &mut Layer, inputs: &mut Vec<u64>, inventory: &Inventory, unit: &Unit) {
    let (shape, tensor) = (&inventory.shape, inventory.tensor_of(unit));
    let (row, name) = (tensor.row_elements(), tensor.name.as_str());
    let wide = row as f64;
    match unit.role {
        Role::Norm => {
            let numbers =
                if name.contains("attn_q_norm") && row == u64::from(shape.kv_row.0) { heads(shape) } else { wide };
            let ffn = name.contains("ffn") || name.contains("post_");
            (if ffn { &mut layer.ffn } else { &mut layer.attention }).norm += numbers;
        }
        Role::Attention if tensor.dims.len() > 1 => {
            // What comes out of attention has the residual stream's width in most models, and is another input all the same.
            let output = name.contains("attn_output");
            if output || !inputs.contains(&row) {
                layer.attention.round += rounded(row);
                layer.attention.jobs += 1.0;
                inputs.extend((!output).then_some(row));
            }
        }
        Role::DenseFfn | Role::SharedExpert | Role::RoutedExpert if tensor.dims.len() > 1 => {
            let used = if unit.role == Role::RoutedExpert { f64::from(shape.experts_used) } else { 1.0 };
            if name.contains("down") {
                layer.ffn.activate += used * wide;
                layer.ffn.round += used * rounded(row);
                layer.ffn.jobs += 1.0;
            } else if name.contains("up") {
                layer.ffn.round += rounded(row);
                layer.ffn.jobs += 1.0;
            }
        }
        Role::Router if tensor.dims.len() > 1 => {
            layer.ffn.choose += f64::from(shape.experts);
            layer.ffn.jobs += 1.0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Tensor, VocabularySize};
    use crate::{Bytes, QuantType};

    fn model(experts: u32, list: &[(&str, Role, &[u64])]) -> Inventory {
        let shape = ModelShape {
            architecture: "test".into(),
            layers: 1,
            embedding: 8,
            heads: 4,
            feed_forward: 16,
            vocabulary: 8,
            context_train: 8,
            kv_per_token: vec![(4, 4)],
            kv_row: (2, 2),
            latent: None,
            indexer_per_token: Vec::new(),
            delta: None,
            experts,
            experts_used: experts.min(2),
        };
        let tensors = list.iter().map(|(name, _, dims)| Tensor {
            name: (*name).to_owned(),
            quant: QuantType::F32,
            dims: dims.to_vec(),
            file: 0,
            offset: 0,
            bytes: Bytes(4 * dims.iter().product::<u64>()),
        });
        let units = list.iter().enumerate().flat_map(|(tensor, (_, role, dims))| {
            (0..if *role == Role::RoutedExpert { experts } else { 1 }).map(move |expert| Unit {
                tensor: tensor as u32,
                role: *role,
                layer: Some(0),
                expert: (*role == Role::RoutedExpert).then_some(expert),
                rows: dims.get(1).copied().unwrap_or(1),
                offset: 0,
                bytes: Bytes(4),
            })
        });
        Inventory {
            name: "test".into(),
            files: Vec::new(),
            shape,
            vocabulary: VocabularySize::default(),
            tensors: tensors.collect(),
            units: units.collect(),
        }
    }

    const ATTENTION: [(&str, Role, &[u64]); 6] = [
        ("blk.0.attn_norm.weight", Role::Norm, &[8]),
        ("blk.0.attn_q.weight", Role::Attention, &[8, 8]),
        ("blk.0.attn_k.weight", Role::Attention, &[8, 4]),
        ("blk.0.attn_q_norm.weight", Role::Norm, &[2]),
        ("blk.0.attn_output.weight", Role::Attention, &[8, 8]),
        ("blk.0.ffn_norm.weight", Role::Norm, &[8]),
    ];

    /// A row of a few numbers is rounded as a run of many.
    const RUN: f64 = RUN_NUMBERS as f64;

    #[test]
    fn matrices_of_one_input_share_its_rounding() {
        let ffn: [(&str, Role, &[u64]); 3] = [
            ("blk.0.ffn_gate.weight", Role::DenseFfn, &[8, 16]),
            ("blk.0.ffn_up.weight", Role::DenseFfn, &[8, 16]),
            ("blk.0.ffn_down.weight", Role::DenseFfn, &[16, 8]),
        ];
        let found = layers(&model(0, &[&ATTENTION[..], &ffn].concat()));
        let attention = Numbers {
            norm: 8.0 + 8.0,
            add: 8.0,
            round: 2.0 * RUN,
            turn: 12.0,
            keep: 8.0,
            jobs: 3.0,
            ..Numbers::default()
        };
        let ffn = Numbers { norm: 8.0, add: 8.0, round: 2.0 * RUN, activate: 16.0, jobs: 2.0, ..Numbers::default() };
        assert_eq!(found, [Layer { attention, ffn }]);
    }

    #[test]
    fn matrices_of_one_input_are_one_job() {
        let ffn: [(&str, Role, &[u64]); 5] = [
            ("blk.0.ffn_gate_exps.weight", Role::RoutedExpert, &[8, 5, 4]),
            ("blk.0.ffn_up_exps.weight", Role::RoutedExpert, &[8, 5, 4]),
            ("blk.0.ffn_down_exps.weight", Role::RoutedExpert, &[8, 8, 4]),
            ("blk.0.ffn_up_shexp.weight", Role::SharedExpert, &[8, 5]),
            ("blk.0.ffn_down_shexp.weight", Role::SharedExpert, &[5, 8]),
        ];
        // Each unit here has 4 bytes, and two of four experts are chosen: 8 bytes of a tensor of experts.
        let model = model(4, &[&ATTENTION[1..3], &ATTENTION[4..5], &ffn].concat());
        let found = jobs(&model, Traffic::new(&model, None));
        assert_eq!(found, [8.0, 8.0, 4.0, 16.0, 16.0, 8.0, 4.0, 4.0]);
    }

    #[test]
    fn a_mixture_has_its_experts_columns_side_by_side() {
        let ffn: [(&str, Role, &[u64]); 4] = [
            ("blk.0.ffn_gate_inp.weight", Role::Router, &[8, 3]),
            ("blk.0.ffn_gate_exps.weight", Role::RoutedExpert, &[8, 5, 3]),
            ("blk.0.ffn_up_exps.weight", Role::RoutedExpert, &[8, 5, 3]),
            ("blk.0.ffn_down_exps.weight", Role::RoutedExpert, &[5, 8, 3]),
        ];
        let found = layers(&model(3, &[&ATTENTION[..], &ffn].concat()))[0].ffn;
        let ffn = Numbers {
            norm: 8.0,
            add: 8.0,
            round: 3.0 * RUN,
            activate: 10.0,
            choose: 3.0,
            jobs: 3.0,
            ..Numbers::default()
        };
        assert_eq!(found, ffn);
    }
}
