//! The devices of an engine beside the processor, and on which of them the residual stream is.

use std::sync::Arc;

use plan::{Device, LayerDevices};

#[cfg(feature = "cuda")]
use crate::route::Brought;
use crate::route::{Route, Streaming};

/// Where blocks are computed, and where their input is now.
pub(crate) struct Devices {
    /// Shared, for those who ask it while they change what is beside.
    pub(crate) route: Arc<Route>,
    /// Where the residual stream of this pass is.
    pub(crate) x_at: Device,
    /// Whether and how weights are brought to cards in this pass.
    pub(crate) streaming: Option<Streaming>,
    /// What each card of the route holds. Lent out while it computes.
    #[cfg(feature = "cuda")]
    cards: Vec<Option<Box<crate::gpu::GpuSide>>>,
}

impl Devices {
    pub(crate) fn new(route: Route) -> Self {
        Self {
            route: Arc::new(route),
            x_at: Device::Cpu,
            streaming: None,
            #[cfg(feature = "cuda")]
            cards: Vec::new(),
        }
    }

    /// Where a layer's blocks are computed in this pass.
    pub(crate) fn of_layer(&self, index: usize) -> LayerDevices {
        match (&self.route.streamed, self.streaming) {
            (Some(streamed), Some(_)) => streamed.layers[index],
            _ => self.route.layers[index],
        }
    }

    /// Whether and how weights are brought to this card in this pass.
    #[cfg(feature = "cuda")]
    pub(crate) fn brought_to(&self, card: u32) -> Option<Brought> {
        self.route.brought_to(card, self.streaming)
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use kernels::cpu::{Awake, Pool};
    use plan::{Inventory, KvPlan, Plan};
    use tiers::{CardCounts, Tiers};

    use super::{Device, Devices};
    use crate::blocks::{Pass, Quants};
    use crate::gpu::{GpuPass, GpuSide};
    use crate::session::Memory;
    use crate::spec::Spec;
    use crate::stats::Traffic;
    use crate::steps::{Part, Steps};
    use crate::{EngineError, Stats};

    type Result<T> = std::result::Result<T, EngineError>;

    impl Devices {
        /// The same with what each card of the route needs.
        pub(crate) fn opened(
            self,
            model: (&Spec, &Quants, &Inventory),
            plan: &Plan,
            frequencies: &[Vec<f32>],
            tiers: &mut Tiers,
        ) -> Result<Self> {
            let numbers = self.route.cards().into_iter();
            let cards = numbers.map(|number| {
                GpuSide::new(number, model, plan, frequencies, &self.route, tiers).map(Box::new).map(Some)
            });
            Ok(Self { cards: cards.collect::<Result<_>>()?, ..self })
        }

        /// The cards that compute nothing now.
        fn cards(&self) -> impl Iterator<Item = &GpuSide> {
            self.cards.iter().flatten().map(AsRef::as_ref)
        }

        /// What layers keep of a conversation on cards: by layer, nothing for those whose attention the processor computes.
        pub(crate) fn memories(&self, spec: &Spec, kv: &KvPlan) -> Result<Vec<Option<Memory>>> {
            let mut memories: Vec<Option<Memory>> = spec.layers.iter().map(|_| None).collect();
            for card in self.cards() {
                for (place, memory) in memories.iter_mut().zip(card.memories(spec, kv, &self.route)?) {
                    *place = place.take().or(memory);
                }
            }
            Ok(memories)
        }

        /// Keeps the processor's threads awake where it computes between the steps of a card.
        pub(crate) fn keep_awake(&self, pool: &Pool) -> Option<Awake> {
            let turns = |card: &GpuSide| card.takes_turns() || self.route.any_comes();
            self.cards().any(turns).then(|| pool.stay_awake())
        }

        /// Ends what a pass that failed left on cards. What fails there again is said by the next pass.
        pub(crate) fn give_up(&mut self) {
            for card in self.cards.iter_mut().flatten() {
                let _ = card.give_up();
            }
        }

        /// What each card has done so far.
        pub(crate) fn traffic(&self, tiers: &Tiers) -> Vec<(u32, Traffic)> {
            let traffic = |card: &GpuSide| {
                let CardCounts { read_bytes, up_bytes } = tiers.card_counts(card.number());
                let crossed = card.traffic();
                (card.number(), Traffic { read_bytes, up_bytes: crossed.up_bytes + up_bytes, ..crossed })
            };
            self.cards().map(traffic).collect()
        }

        /// The same stats with the most that was taken on each card.
        pub(crate) fn measured(&self, mut stats: Stats) -> Stats {
            for (name, peak) in self.cards().map(GpuSide::peak) {
                stats.tiers.iter_mut().filter(|tier| tier.name == name).for_each(|tier| tier.peak_bytes = peak.0);
            }
            stats
        }
    }

    const LENT_ONCE: &str = "a route's cards are open, and each computes once at a time";

    impl Pass<'_> {
        /// Runs steps on `device`.
        pub(crate) fn on<T>(&mut self, device: Device, run: impl FnOnce(&mut dyn Steps) -> Result<T>) -> Result<T> {
            match device {
                Device::Cpu => run(self),
                Device::Gpu(card) => self.on_card(card, |gpu| run(gpu)),
            }
        }

        /// Runs a layer's attention on `device`, with what the layer keeps: a card borrows it where it lives in RAM.
        pub(crate) fn attention_on(
            &mut self,
            device: Device,
            index: usize,
            layers: &mut [Memory],
            run: impl FnOnce(&mut dyn Steps, &mut Memory) -> Result<()>,
        ) -> Result<()> {
            let (Device::Gpu(card), Memory::Cache(cache)) = (device, &layers[index]) else {
                return self.on(device, |s| run(s, &mut layers[index]));
            };
            let positions = self.first_position..self.first_position + self.tokens;
            let kind = &self.spec.layers[index].attention.kind;
            let mut room = self.card(card).borrow(kind, cache, positions.start)?;
            let outcome = self.on(device, |s| run(s, &mut room));
            self.card(card).give_back(index, room, if outcome.is_ok() { positions } else { 0..0 }, layers)?;
            outcome
        }

        /// Has everything in its place that layers keep of this pass.
        pub(crate) fn settle(&mut self, layers: &mut [Memory]) -> Result<()> {
            self.on_each_card(|gpu| gpu.side.settle_caches(layers))
        }

        /// Copies part of a register from where the residual stream is to the same on `device`: from one card to another by way of the
        /// processor's. What a card is owed is paid before it is left, so that nobody waits there.
        pub(crate) fn cross(&mut self, part: Part, device: Device) -> Result<()> {
            if let Device::Gpu(from) = self.devices.x_at {
                self.on_card(from, |gpu| {
                    gpu.pay()?;
                    let (host, side) = (&*gpu.host, &mut *gpu.side);
                    host.span(part).with_mut(|numbers| side.download(part, numbers))??;
                    gpu.tell()
                })?;
            }
            let Device::Gpu(to) = device else { return Ok(()) };
            self.on_card(to, |gpu| {
                gpu.pay()?;
                let (host, side) = (&*gpu.host, &mut *gpu.side);
                host.span(part).with(|numbers| side.upload(numbers, part))?
            })
        }

        /// Tells every card of the route where this pass begins. Whether the tokens were looked up on one of them.
        pub(crate) fn begin_on_cards(&mut self, tokens: &[u32]) -> Result<bool> {
            let mut embedded = None;
            self.on_each_card(|gpu| {
                gpu.tell()?;
                let (side, host) = (&mut *gpu.side, &mut *gpu.host);
                side.begin(host.first_position, tokens)?;
                if embedded.is_none() && side.embed(host.spec, host.quants, host.tiers, tokens.len())? {
                    embedded = Some(side.number());
                }
                Ok(())
            })?;
            // One token's numbers cross faster than a copy starts.
            if let (None, 2.., Device::Gpu(first)) = (embedded, tokens.len(), self.devices.of_layer(0).attention) {
                let brought = self.on_card(first, |gpu| {
                    let Pass { spec, quants, tiers, .. } = &mut *gpu.host;
                    gpu.side.embed_brought(spec, quants, tiers, tokens)
                })?;
                embedded = brought.then_some(first);
            }
            if let Some(card) = embedded {
                self.devices.x_at = Device::Gpu(card);
            }
            Ok(embedded.is_some())
        }

        /// Ends this pass: nobody waits for the processor any more.
        #[allow(clippy::redundant_closure_for_method_calls)] // The method is not general enough in its lifetimes.
        pub(crate) fn end_on_cards(&mut self) -> Result<()> {
            self.on_each_card(|gpu| gpu.pay())
        }

        /// The card of this number.
        pub(crate) fn card(&mut self, number: u32) -> &mut GpuSide {
            let mut cards = self.devices.cards.iter_mut().flatten();
            let Some(side) = cards.find(|side| side.number() == number) else { unreachable!("{LENT_ONCE}") };
            side
        }

        fn on_card<T>(&mut self, number: u32, run: impl FnOnce(&mut GpuPass) -> Result<T>) -> Result<T> {
            let is_asked = |card: &Option<Box<GpuSide>>| card.as_ref().is_some_and(|side| side.number() == number);
            let Some(place) = self.devices.cards.iter().position(is_asked) else { unreachable!("{LENT_ONCE}") };
            self.lend(place, run)
        }

        fn on_each_card(&mut self, mut run: impl FnMut(&mut GpuPass) -> Result<()>) -> Result<()> {
            (0..self.devices.cards.len()).try_for_each(|place| self.lend(place, &mut run))
        }

        fn lend<T>(&mut self, place: usize, run: impl FnOnce(&mut GpuPass) -> Result<T>) -> Result<T> {
            let Some(mut side) = self.devices.cards[place].take() else { unreachable!("{LENT_ONCE}") };
            let outcome = run(&mut GpuPass { host: self, side: &mut side });
            self.devices.cards[place] = Some(side);
            outcome
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use std::ops::Range;

    use kernels::cpu::{Awake, Pool};
    use plan::KvPlan;
    use tiers::Tiers;

    use super::{Device, Devices};
    use crate::EngineError;
    use crate::blocks::Pass;
    use crate::session::Memory;
    use crate::spec::Spec;
    use crate::stats::Traffic;
    use crate::steps::{Part, Steps};

    type Result<T> = std::result::Result<T, EngineError>;

    const NO_GPU: &str = "tiers refuse a plan with GPUs in this build";

    impl Devices {
        /// What layers keep of a conversation on a GPU: there is none.
        #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // As where there are GPUs.
        pub(crate) fn memories(&self, spec: &Spec, _: &KvPlan) -> Result<Vec<Option<Memory>>> {
            Ok(spec.layers.iter().map(|_| None).collect())
        }

        /// Keeps the processor's threads awake where it computes between the steps of a GPU.
        #[allow(clippy::unused_self)] // As where there are GPUs.
        pub(crate) fn keep_awake(&self, _: &Pool) -> Option<Awake> {
            None
        }

        /// Ends what a pass that failed left on a GPU: there is none.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut)] // As where there are GPUs.
        pub(crate) fn give_up(&mut self) {}

        /// What each card has done so far: there is none.
        #[allow(clippy::unused_self)] // As where there are GPUs.
        pub(crate) const fn traffic(&self, _: &Tiers) -> Vec<(u32, Traffic)> {
            Vec::new()
        }
    }

    impl Pass<'_> {
        /// Runs steps on `device`.
        pub(crate) fn on<T>(&mut self, device: Device, run: impl FnOnce(&mut dyn Steps) -> Result<T>) -> Result<T> {
            assert_eq!(device, Device::Cpu, "{NO_GPU}");
            run(self)
        }

        /// Runs a layer's attention on `device`, with what the layer keeps.
        pub(crate) fn attention_on(
            &mut self,
            device: Device,
            index: usize,
            layers: &mut [Memory],
            run: impl FnOnce(&mut dyn Steps, &mut Memory) -> Result<()>,
        ) -> Result<()> {
            self.on(device, |s| run(s, &mut layers[index]))
        }

        /// Has everything in its place that layers keep of this pass.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, clippy::unnecessary_wraps)] // As where there are GPUs.
        pub(crate) fn settle(&mut self, _: &mut [Memory]) -> Result<()> {
            Ok(())
        }

        /// Whether the tokens were looked up on a GPU: there is none.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, clippy::unnecessary_wraps)] // As where there are GPUs.
        pub(crate) fn begin_on_cards(&mut self, _: &[u32]) -> Result<bool> {
            Ok(false)
        }

        /// Layers that are a GPU's alone: there are none.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut)] // As where there are GPUs.
        pub(crate) fn recorded(
            &mut self,
            _: Device,
            _: &Range<usize>,
            _: u64,
            _: impl FnOnce(&mut Self) -> Result<()>,
        ) -> Result<()> {
            unreachable!("{NO_GPU}")
        }

        /// Ends this pass: nobody waits.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, clippy::unnecessary_wraps)] // As where there are GPUs.
        pub(crate) fn end_on_cards(&mut self) -> Result<()> {
            Ok(())
        }

        /// Copies part of a register to the same on another device: there is none.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut)] // As where there are GPUs.
        pub(crate) fn cross(&mut self, _: Part, _: Device) -> Result<()> {
            unreachable!("{NO_GPU}")
        }
    }
}
