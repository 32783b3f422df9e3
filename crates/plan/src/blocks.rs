//! Which units one device computes together, and which device that is.
//!
//! A block is a layer's attention, a layer's feed-forward part, or the output. It is a GPU's where one of its matrices lives there, else the
//! processor's; what a layer keeps of a conversation lives where its attention is computed. Vectors decide nothing: each device has copies.

use crate::{Device, Inventory, LayerDevices, Role, Tier, Unit};

/// What one device computes at a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Block {
    /// Attention of a layer, or what stands in its place.
    Attention(u32),
    /// The feed-forward part of a layer.
    Ffn(u32),
    /// The matrix that makes logits.
    Output,
}

/// The block that a unit decides for: none for vectors, tables of which only rows are read, and what is not run.
pub(crate) fn block_of(inventory: &Inventory, unit: &Unit, tied: bool) -> Option<Block> {
    if inventory.is_vector(unit) {
        return None;
    }
    match (unit.role, unit.layer) {
        (Role::Output, _) => Some(Block::Output),
        (Role::Embedding, _) if tied => Some(Block::Output),
        (Role::Attention, Some(layer)) => Some(Block::Attention(layer)),
        (Role::DenseFfn | Role::SharedExpert | Role::RoutedExpert | Role::Router, Some(layer)) => {
            Some(Block::Ffn(layer))
        }
        _ => None,
    }
}

/// The devices of all blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devices {
    pub(crate) layers: Vec<LayerDevices>,
    pub(crate) output: Device,
}

impl Devices {
    /// Everything on the processor.
    pub(crate) fn none(inventory: &Inventory) -> Self {
        let cpu = LayerDevices { attention: Device::Cpu, ffn: Device::Cpu };
        Self { layers: vec![cpu; inventory.shape.layers as usize], output: Device::Cpu }
    }

    /// The devices that follow from homes, by unit. Of several GPUs in one block the last counts.
    pub(crate) fn of(inventory: &Inventory, homes: &[Tier]) -> Self {
        let mut devices = Self::none(inventory);
        let tied = inventory.tied_output();
        for (unit, home) in inventory.units.iter().zip(homes) {
            let Tier::Gpu(number) = home else { continue };
            if let Some(device) = block_of(inventory, unit, tied).and_then(|block| devices.get_mut(block)) {
                *device = Device::Gpu(*number);
            }
        }
        devices
    }

    /// The device of a block; none for a layer that is not run.
    pub(crate) fn get_mut(&mut self, block: Block) -> Option<&mut Device> {
        match block {
            Block::Attention(layer) => self.layers.get_mut(layer as usize).map(|layer| &mut layer.attention),
            Block::Ffn(layer) => self.layers.get_mut(layer as usize).map(|layer| &mut layer.ffn),
            Block::Output => Some(&mut self.output),
        }
    }

    /// The same, to look at.
    pub(crate) fn get(&self, block: Block) -> Option<Device> {
        match block {
            Block::Attention(layer) => self.layers.get(layer as usize).map(|layer| layer.attention),
            Block::Ffn(layer) => self.layers.get(layer as usize).map(|layer| layer.ffn),
            Block::Output => Some(self.output),
        }
    }

    /// Where each layer's cache or state lives.
    pub(crate) fn kv_homes(&self) -> Vec<Tier> {
        self.layers.iter().map(|layer| home_on(layer.attention)).collect()
    }

    /// Whether any block is this GPU's.
    pub(crate) fn uses(&self, gpu: u32) -> bool {
        let gpu = Device::Gpu(gpu);
        self.output == gpu || self.layers.iter().any(|layer| layer.attention == gpu || layer.ffn == gpu)
    }
}

/// The memory that a device computes from.
const fn home_on(device: Device) -> Tier {
    match device {
        Device::Cpu => Tier::Ram,
        Device::Gpu(number) => Tier::Gpu(number),
    }
}
