//! What a link brings to a GPU: in decode of a token's experts, and of layers' feed-forward matrices; in prompts all of a mixture but those experts
//! that the processor computes meanwhile.
//!
//! Owns which layers may come, and the search for how many do. Must never know what they cost.

use super::super::streams::Coming;
use super::{Pass, Passes, Stage, Work};
use crate::blocks::{Block, block_of};
use crate::{Device, Fetch, Inventory, Placement, Plan, Role, Tier, Unit};

impl Passes<'_> {
    /// The fewest experts of a token to copy to a GPU in decode with which no other number makes a token faster; one at least where it keeps some.
    pub(in crate::forecast) fn best_fetch(&mut self, fetch: Fetch) -> u32 {
        let least = u32::from(fetch.kept > 0).min(fetch.experts);
        let more = fewest(fetch.experts - least, |more| {
            self.fetched = share_of(Fetch { experts: least + more, ..fetch });
            self.decode_s()
        });
        let experts = least + more;
        self.fetched = share_of(Fetch { experts, ..fetch });
        experts
    }

    /// The fewest experts of a layer, of `most` in RAM, that the processor should compute in prompts of so many tokens while the others are
    /// streamed.
    pub(in crate::forecast) fn best_kept(&self, tokens: u32, most: u32) -> u32 {
        let pass = Pass::Streamed { first: 0, tokens };
        let stages = self.stages(pass, true);
        fewest(most, |count| {
            let share = f64::from(count) / f64::from(most);
            let kept: Vec<Stage> = stages.iter().map(|stage| stage.with_kept(share)).collect();
            self.sum(&kept, pass).seconds
        })
    }

    /// Notes what a unit would take of the processor, if it is streamed and may stay.
    pub(super) fn leave_open(&self, stage: &mut Stage, unit: &Unit, placement: &Placement, (pass, work): (Pass, Work)) {
        if let (Tier::Ram, Device::Gpu(number), Role::RoutedExpert) = (placement.home, placement.prefill, unit.role) {
            stage.open.bytes += work.bytes;
            stage.open.gpu_s += self.unit_on_gpu(number, unit, work);
            stage.open.beside_s += self.on_cpu(unit, pass.tokens(), work);
        }
    }

    /// The layers whose feed-forward matrices are copied to a GPU in decode, spread evenly: as many as are asked, or the fewest with which no other
    /// number makes a token faster.
    pub(in crate::forecast) fn best_layers(&mut self, asked: Option<u32>) -> Vec<u32> {
        let may = self.may_come();
        let most = may.len() as u32;
        let count = asked.map_or_else(
            || {
                fewest(most, |count| {
                    self.come(&spread(&may, count));
                    self.decode_s()
                })
            },
            |asked| asked.min(most),
        );
        let layers = spread(&may, count);
        self.come(&layers);
        layers
    }

    /// Layers whose feed-forward matrices may be copied to a GPU in decode: the processor's, all of them in RAM and handed to one GPU for prompts.
    fn may_come(&self) -> Vec<u32> {
        let mut may: Vec<bool> = self.decode.layers.iter().map(|layer| layer.ffn == Device::Cpu).collect();
        let mut any = vec![false; may.len()];
        for (unit, placement) in self.inventory.units.iter().zip(&self.plan.placements) {
            let Some(layer) = unit.layer.map(|layer| layer as usize).filter(|layer| *layer < may.len()) else {
                continue;
            };
            let block = block_of(self.inventory, unit, self.traffic.tied());
            if block == Some(Block::Ffn(layer as u32)) {
                any[layer] = true;
                may[layer] &=
                    unit.role == Role::DenseFfn && placement.home == Tier::Ram && placement.prefill != Device::Cpu;
            }
        }
        (0..).zip(may.into_iter().zip(any)).filter(|(_, (may, any))| *may && *any).map(|(layer, _)| layer).collect()
    }

    /// Has these layers' feed-forward matrices copied to a GPU in decode.
    fn come(&mut self, layers: &[u32]) {
        self.comes.fill(false);
        self.decode.layers.clone_from(&self.plan.blocks);
        for layer in layers {
            self.comes[*layer as usize] = true;
            // Where they are handed for prompts.
            self.decode.layers[*layer as usize].ffn = self.streamed.layers[*layer as usize].ffn;
        }
    }
}

impl Stage {
    /// The same where a share of what is open stays with the processor.
    fn with_kept(&self, share: f64) -> Self {
        let [attention, ffn] = self.comes;
        let (bytes, gpu_s) = (ffn.bytes - self.open.bytes * share, ffn.gpu_s - self.open.gpu_s * share);
        Self {
            comes: [attention, Coming { bytes, gpu_s, ..ffn }],
            cpu_beside_s: self.cpu_beside_s + self.open.beside_s * share,
            beside_bytes: self.beside_bytes + self.open.bytes * share,
            ..*self
        }
    }
}

/// The fewest, of none to `most`, with which no other number takes less: less than a hundredth is no gain.
fn fewest(most: u32, mut seconds: impl FnMut(u32) -> f64) -> u32 {
    let mut best = (f64::INFINITY, 0);
    for count in 0..=most {
        let seconds = seconds(count);
        if seconds < best.0 * 0.99 {
            best = (seconds, count);
        }
    }
    best.1
}

/// So many of these layers, spread evenly.
fn spread(layers: &[u32], count: u32) -> Vec<u32> {
    let (all, count) = (layers.len(), count as usize);
    let picked = layers.iter().enumerate().filter(|(place, _)| (place + 1) * count / all > place * count / all);
    picked.map(|(_, layer)| *layer).collect()
}

/// By layer, whether the plan has its feed-forward matrices copied to a GPU in decode.
pub(super) fn comes(plan: &Plan, inventory: &Inventory) -> Vec<bool> {
    let mut comes = vec![false; plan.blocks.len()];
    for (_, unit) in inventory.iter().filter(|(id, _)| plan.comes(*id)) {
        if let Some(layer) = unit.layer.and_then(|layer| comes.get_mut(layer as usize)) {
            *layer = true;
        }
    }
    comes
}

/// The share of a token's choice that comes.
pub(super) fn share_of(fetch: Fetch) -> f64 {
    f64::from(fetch.experts) / f64::from(fetch.of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_is_no_gain() {
        for (seconds, expected) in [
            (&[3.0, 2.0, 1.0, 2.0][..], 2),
            (&[3.0, 2.98, 2.975], 0),
            (&[3.0, 2.9, 2.88, 2.8], 3),
            (&[3.0, f64::INFINITY], 0),
        ] {
            let most = seconds.len() as u32 - 1;
            assert_eq!(fewest(most, |count| seconds[count as usize]), expected, "{seconds:?}");
        }
    }

    #[test]
    fn layers_are_spread_evenly() {
        let layers = [3, 4, 5, 8, 9, 10];
        for (count, expected) in [(0, &[][..]), (1, &[10]), (2, &[5, 10]), (3, &[4, 8, 10]), (6, &layers)] {
            assert_eq!(spread(&layers, count), expected, "{count}");
        }
        assert!(spread(&[], 0).is_empty());
    }
}
