//! What comes to GPUs while a pass goes on: of each stage how much, through which ring, and what that makes of the pass.
//!
//! Must never know how rings fill: that is `streams`.

use super::gpu::asking;
use super::{Coming, Cost, Pass, Passes, Stage, Term, Work};
use crate::{Role, Unit};

/// What is asked of the driver for a slot's experts: its copy, four marks that are set or waited for, and kernels that fetch lists, multiply by gates and ups
/// together, join them, fetch lists, multiply by downs, and add them up. Before matrices that lie side by side were one copy a layer of R1's shape took 4 ms.
const ASKED_OF_A_SLOT: f64 = 11.0;

impl Passes<'_> {
    /// Adds what comes to a GPU of a unit.
    pub(super) fn bring(&self, stage: &mut Stage, unit: &Unit, number: u32, work: Work) {
        let coming = &mut stage.comes[usize::from(unit.role != Role::Attention)];
        coming.bytes += work.bytes;
        coming.gpu_s += self.unit_on_gpu(number, unit, work);
        coming.ring = self.rings.place(number);
    }

    /// Adds what the stages in a row wait for that comes to a GPU, and its products.
    pub(super) fn come_beside(&self, cost: &mut Cost, costs: &[Cost], stages: &[Stage], pass: Pass) {
        let sum = |of: fn(&Stage) -> f64| stages.iter().map(of).sum::<f64>();
        let row = self.row(costs, stages, pass);
        let coming_s = self.rings.seconds(stages.iter().flat_map(Stage::coming));
        let gpu_s: f64 = row.iter().map(|(_, coming)| coming.gpu_s).sum();
        let (seconds, waits) = if matches!(pass, Pass::Streamed { .. }) {
            let disk_s: f64 = stages.iter().map(|stage| self.disk_s(stage)).sum();
            let beside_s = row.iter().map(|(_, coming)| coming.beside_s).sum();
            let waits = [(disk_s, Term::Disk), (coming_s, Term::Link), (beside_s, Term::Weights)];
            let longest = waits.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
            (self.rings.first(&row), longest.map_or(Term::Link, |(_, term)| term))
        } else {
            let coming = |stage: &Stage| stage.comes.iter().map(|coming| coming.bytes).sum::<f64>();
            let bytes = sum(|stage| stage.ram_bytes + stage.beside_bytes) + stages.iter().map(coming).sum::<f64>();
            (self.rings.steady(&row).max(bytes / self.ram_together), Term::Link)
        };
        cost.link_s += coming_s;
        cost.gpu_s += gpu_s;
        let late = (seconds - cost.seconds).max(0.0);
        // Of what is left the card computes as long as it does, and waits for the rest.
        if matches!(pass, Pass::Streamed { .. }) {
            cost.spend(Term::Gpu, gpu_s.min(late));
            cost.spend(waits, (late - gpu_s).max(0.0));
        } else {
            cost.spend(waits, late);
        }
    }

    /// What comes, in the order of its use, with the seconds before it is needed. What lives on disk comes by way of RAM, at the slower of both rates.
    fn row(&self, costs: &[Cost], stages: &[Stage], pass: Pass) -> Vec<(f64, Coming)> {
        let mut row = Vec::with_capacity(stages.len());
        for (cost, stage) in costs.iter().zip(stages) {
            let all: f64 = stage.coming().map(|coming| coming.bytes).sum();
            let from_disk = if matches!(pass, Pass::Streamed { .. }) { self.disk_s(stage) } else { 0.0 };
            let late = |coming: Coming| {
                let bytes = self.rings.bytes_in(coming.ring, from_disk * coming.bytes / all.max(1.0));
                let gpu_s = coming.gpu_s * self.machine.calibration.gpu;
                Coming { bytes: coming.bytes.max(bytes), gpu_s, ..coming }
            };
            let first = row.len();
            row.extend(stage.coming().map(|coming| (0.0, late(coming))));
            match row.get_mut(first) {
                Some((before, _)) => *before = cost.seconds,
                None => row.push((cost.seconds, Coming::default())),
            }
            if let (Some((_, last)), Pass::Streamed { .. }) = (row.last_mut(), pass) {
                last.beside_s = self.beside_s(stage);
            }
        }
        row
    }

    /// Seconds of the processor with those experts of a streamed stage that stay in RAM, which gives to it and to the link. It begins when it has asked for all
    /// that comes.
    fn beside_s(&self, stage: &Stage) -> f64 {
        if stage.beside_bytes == 0.0 {
            return 0.0;
        }
        let bytes: f64 = stage.coming().map(|coming| coming.bytes).sum();
        let shared = (stage.beside_bytes + bytes) / self.ram_together;
        let slots = stage.coming().filter_map(|coming| self.rings.slots(coming.ring, coming.bytes));
        let asking_s: f64 =
            slots.filter_map(|(gpu, slots)| Some(slots * ASKED_OF_A_SLOT * asking(self.gpu(gpu)?))).sum();
        (asking_s + stage.cpu_beside_s * self.machine.calibration.prompt).max(shared)
    }
}

impl Stage {
    pub(super) fn has_coming(&self) -> bool {
        self.comes.iter().any(|coming| coming.bytes > 0.0)
    }

    /// What comes, in the order of its use: together where it comes through one ring.
    pub(super) fn coming(&self) -> impl Iterator<Item = Coming> {
        let [attention, ffn] = self.comes;
        let both = Coming { bytes: attention.bytes + ffn.bytes, gpu_s: attention.gpu_s + ffn.gpu_s, ..ffn };
        let apart = attention.bytes > 0.0 && ffn.bytes > 0.0 && attention.ring != ffn.ring;
        let first = if apart || ffn.bytes == 0.0 { attention } else { both };
        [first, if apart { ffn } else { Coming::default() }].into_iter().filter(|coming| coming.bytes > 0.0)
    }
}
