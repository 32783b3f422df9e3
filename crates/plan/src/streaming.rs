//! What a GPU needs to compute prompts with weights that live elsewhere: a ring that they pass through, and room for what one layer keeps
//! of a conversation.
//!
//! Arithmetic of the ring. A prompt reads each weight once, so copies are the clock: a 70B in `Q4_K_M` with 31.4 GB in RAM takes 0.57 s over
//! a link of 55 GB/s, whatever the prompt's length, and 512 tokens' products 0.43 s at 165 TOP/s. Copies must then never wait for products:
//! one slot is multiplied with, one is full or nearly, one is filled. A slot of 64 MiB is 1.2 ms of such a link, and 2.8 ms of a link of
//! 24 GB/s, beside which the start of a copy (microseconds) is nothing; larger slots make only the first copy of a pass longer.

use std::collections::{BTreeSet, HashMap};

use crate::cost::kv_cache;
use crate::{Bytes, Inventory, KvType, ModelShape, Role, Staging};

/// Slots of a ring for prompts.
pub const SLOTS: u32 = 3;
/// Slots of a ring that serves decode too: while the processor computes a layer of a 70B, 490 MB in 5 to 12 ms, a link of 55 GB/s fills them.
pub const SLOTS_DECODE: u32 = 8;
/// Slots of longer rings, where the forecast gains by them: attention over 4,096 tokens of a large mixture takes as long as a link of 55 GB/s fills
/// sixteen. Where not much room is left each slot counts.
pub(crate) const SLOTS_LONGER: [u32; 7] = [4, 5, 6, 8, 12, 16, 24];
/// Bytes of a slot, unless something that is never cut is longer.
pub const SLOT: Bytes = Bytes(64 << 20);
/// Pieces start at multiples of this: kernels read whole words around a row.
pub const ALIGN: u64 = 256;
/// Bytes at a slot's end that no piece takes: kernels may read past a row's end, up to a word of each lane of a warp.
pub const TAIL: Bytes = Bytes(512);

/// A ring of so many slots, each of which takes every row of the model, and the matrices of every expert together.
#[must_use]
pub fn ring(inventory: &Inventory, slots: u32) -> Staging {
    Staging { slot: SLOT.max(slot_min(inventory)), slots }
}

/// The smallest slot that serves, rounded up to a MiB: experts are not cut, other matrices are, by rows.
#[must_use]
pub fn slot_min(inventory: &Inventory) -> Bytes {
    let units = inventory.units.iter().filter(|unit| unit.role != Role::MultiToken);
    let longest = units.map(|unit| inventory.tensor_of(unit).row_bytes()).max().unwrap_or_default();
    Bytes((expert(inventory).max(longest) + TAIL).0.next_multiple_of(1 << 20))
}

/// The matrices of the largest expert, side by side; nothing where there are none.
#[must_use]
pub fn expert(inventory: &Inventory) -> Bytes {
    let mut experts = HashMap::<_, u64>::new();
    for unit in inventory.units.iter().filter(|unit| unit.role != Role::MultiToken && unit.expert.is_some()) {
        *experts.entry((unit.layer, unit.expert)).or_default() += unit.bytes.0.next_multiple_of(ALIGN);
    }
    Bytes(experts.into_values().max().unwrap_or(0))
}

/// The room of one expert that is fetched: its matrices, and what keeps kernels within it.
#[must_use]
pub fn fetch_slot(inventory: &Inventory) -> Bytes {
    Bytes((expert(inventory) + TAIL).0.next_multiple_of(ALIGN))
}

/// Room on a GPU for the keys and values of one layer at a time, of those whose cache lives elsewhere: one for each shape that `layers` have.
/// They are brought there before the layer's attention, as far as there are any, and new ones are copied back.
#[must_use]
pub fn caches(
    shape: &ModelShape,
    layers: impl Iterator<Item = usize>,
    tokens: u32,
    k_type: KvType,
    v_type: KvType,
) -> Bytes {
    let shapes: BTreeSet<(u32, u32)> = layers.filter_map(|layer| shape.kv_per_token.get(layer).copied()).collect();
    let room = |kept| {
        let layer = ModelShape { kv_per_token: vec![kept], indexer_per_token: Vec::new(), ..shape.clone() };
        // Keys and values each start at a multiple of `ALIGN`.
        kv_cache(&layer, tokens, k_type, v_type) + Bytes(2 * ALIGN)
    };
    shapes.into_iter().filter(|kept| *kept != (0, 0)).map(room).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Tensor, Unit, VocabularySize};
    use crate::{ModelFile, QuantType};

    const MIB: u64 = 1 << 20;

    /// A model of one layer with so many experts of three matrices, each so many rows of so many bytes.
    fn model(experts: u32, rows: u64, row: u64) -> Inventory {
        let tensor = |i| Tensor {
            name: format!("t{i}"),
            quant: QuantType::F32,
            dims: vec![row / 4, rows * u64::from(experts.max(1))],
            file: 0,
            offset: 0,
            bytes: Bytes(rows * row * u64::from(experts.max(1))),
        };
        let units = (0..3).flat_map(|tensor| {
            (0..experts.max(1)).map(move |expert| Unit {
                tensor,
                role: if experts > 0 { Role::RoutedExpert } else { Role::DenseFfn },
                layer: Some(0),
                expert: (experts > 0).then_some(expert),
                rows,
                offset: 0,
                bytes: Bytes(rows * row),
            })
        });
        Inventory {
            name: "test".into(),
            files: vec![ModelFile { path: "test".into(), bytes: Bytes(0) }],
            shape: shape(vec![(8, 8)]),
            vocabulary: VocabularySize::default(),
            tensors: (0..3).map(tensor).collect(),
            units: units.collect(),
        }
    }

    fn shape(kv_per_token: Vec<(u32, u32)>) -> ModelShape {
        ModelShape {
            architecture: "test".into(),
            layers: kv_per_token.len() as u32,
            embedding: 8,
            heads: 1,
            feed_forward: 8,
            vocabulary: 8,
            context_train: 8,
            kv_per_token,
            kv_row: (8, 8),
            latent: None,
            indexer_per_token: Vec::new(),
            delta: None,
            experts: 0,
            experts_used: 0,
        }
    }

    #[test]
    fn a_slot_takes_a_row_of_any_matrix_and_an_expert_as_a_whole() {
        for (experts, rows, row, least, usual) in [
            // A matrix of 256 MiB is cut.
            (0, 65_536, 4096, MIB, 64 * MIB),
            (0, 4, 70 * MIB, 71 * MIB, 71 * MIB),
            // Three matrices of 8 MiB, and what keeps kernels within the slot.
            (5, 2048, 4096, 25 * MIB, 64 * MIB),
            (2, 8192, 4096, 97 * MIB, 97 * MIB),
        ] {
            let model = model(experts, rows, row);
            assert_eq!(
                (slot_min(&model), ring(&model, SLOTS).slot),
                (Bytes(least), Bytes(usual)),
                "{experts} × {rows} × {row}"
            );
        }
    }

    #[test]
    fn layers_of_one_shape_share_a_room() {
        let shape = shape(vec![(16, 16), (16, 16), (0, 0), (8, 8), (16, 16)]);
        let room = |layers: &[usize]| caches(&shape, layers.iter().copied(), 10, KvType::F16, KvType::F32).0;
        let (wide, narrow) = (10 * 16 * 6 + 512, 10 * 8 * 6 + 512);
        for (layers, expected) in
            [(&[][..], 0), (&[2], 0), (&[0], wide), (&[0, 1, 4], wide), (&[3, 2], narrow), (&[0, 3, 4], wide + narrow)]
        {
            assert_eq!(room(layers), expected, "{layers:?}");
        }
    }
}
