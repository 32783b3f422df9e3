//! The devices of an engine beside the processor, and on which of them the residual stream is.

use plan::{Device, LayerDevices};

use crate::route::{Brought, Route};

/// Where blocks are computed, and where their input is now.
pub(crate) struct Devices {
    pub(crate) route: Route,
    /// Where the residual stream of this pass is.
    pub(crate) x_at: Device,
    /// Whether and how weights are brought to a card in this pass.
    pub(crate) brought: Option<Brought>,
    /// What the GPU of the route holds. Lent out while it computes.
    #[cfg(feature = "cuda")]
    pub(crate) gpu: Option<Box<crate::gpu::GpuSide>>,
}

impl Devices {
    pub(crate) const fn new(route: Route) -> Self {
        Self {
            route,
            x_at: Device::Cpu,
            brought: None,
            #[cfg(feature = "cuda")]
            gpu: None,
        }
    }

    /// Where a layer's blocks are computed in this pass.
    pub(crate) fn of_layer(&self, index: usize) -> LayerDevices {
        match (&self.route.streamed, self.brought) {
            (Some(streamed), Some(_)) => streamed.layers[index],
            _ => self.route.layers[index],
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use kernels::cpu::{Awake, Pool};
    use plan::{Inventory, KvPlan, Plan};
    use tiers::Tiers;

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
        /// The same with what the GPU of the route needs.
        pub(crate) fn opened(
            self,
            model: (&Spec, &Quants, &Inventory),
            plan: &Plan,
            frequencies: &[Vec<f32>],
            tiers: &mut Tiers,
        ) -> Result<Self> {
            let Some(number) = self.route.gpu() else { return Ok(self) };
            let gpu = GpuSide::new(number, model, plan, frequencies, &self.route, tiers)?;
            Ok(Self { gpu: Some(Box::new(gpu)), ..self })
        }
    }

    impl Devices {
        /// What layers keep of a conversation on a GPU: by layer, nothing for those whose attention the processor computes.
        pub(crate) fn memories(&self, spec: &Spec, kv: &KvPlan) -> Result<Vec<Option<Memory>>> {
            match &self.gpu {
                Some(gpu) => gpu.memories(spec, kv, &self.route),
                None => Ok(spec.layers.iter().map(|_| None).collect()),
            }
        }

        /// Keeps the processor's threads awake where it computes between the steps of a GPU.
        pub(crate) fn keep_awake(&self, pool: &Pool) -> Option<Awake> {
            let turns = |gpu: &GpuSide| gpu.takes_turns() || self.route.any_comes();
            self.gpu.as_ref().filter(|gpu| turns(gpu)).map(|_| pool.stay_awake())
        }

        /// Ends what a pass that failed left on the GPU. What fails there again is said by the next pass.
        pub(crate) fn give_up(&mut self) {
            let _ = self.gpu.as_mut().map_or(Ok(()), |gpu| gpu.give_up());
        }

        /// What has gone between the processor and the GPU so far.
        pub(crate) fn traffic(&self) -> Traffic {
            self.gpu.as_ref().map_or(Traffic::default(), |gpu| gpu.traffic())
        }

        /// The same stats with the most that was taken on the GPU.
        pub(crate) fn measured(&self, mut stats: Stats) -> Stats {
            if let Some((name, peak)) = self.gpu.as_ref().map(|gpu| gpu.peak()) {
                stats.tiers.iter_mut().filter(|tier| tier.name == name).for_each(|tier| tier.peak_bytes = peak.0);
            }
            stats
        }
    }

    const LENT_ONCE: &str = "a route's GPU is open, and computes once at a time";

    impl Pass<'_> {
        /// Runs steps on `device`.
        pub(crate) fn on<T>(&mut self, device: Device, run: impl FnOnce(&mut dyn Steps) -> Result<T>) -> Result<T> {
            if device == Device::Cpu {
                return run(self);
            }
            self.on_gpu(|gpu| run(gpu))
        }

        /// Runs a layer's attention on `device`, with what the layer keeps: a card borrows it where it lives in RAM.
        pub(crate) fn attention_on(
            &mut self,
            device: Device,
            index: usize,
            layers: &mut [Memory],
            run: impl FnOnce(&mut dyn Steps, &mut Memory) -> Result<()>,
        ) -> Result<()> {
            let (Device::Gpu(_), Memory::Cache(cache)) = (device, &layers[index]) else {
                return self.on(device, |s| run(s, &mut layers[index]));
            };
            let positions = self.first_position..self.first_position + self.tokens;
            let kind = &self.spec.layers[index].attention.kind;
            let mut room = self.card().borrow(kind, cache, positions.start)?;
            let outcome = self.on(device, |s| run(s, &mut room));
            self.card().give_back(index, room, if outcome.is_ok() { positions } else { 0..0 }, layers)?;
            outcome
        }

        /// Has everything in its place that layers keep of this pass.
        pub(crate) fn settle(&mut self, layers: &mut [Memory]) -> Result<()> {
            self.devices.gpu.as_mut().map_or(Ok(()), |side| side.settle_caches(layers))
        }

        /// Copies part of a register to the same on `device`, from the other one.
        pub(crate) fn cross(&mut self, part: Part, device: Device) -> Result<()> {
            self.on_gpu(|gpu| {
                gpu.pay()?;
                let (host, side) = (&*gpu.host, &mut *gpu.side);
                match device {
                    Device::Gpu(_) => host.span(part).with(|numbers| side.upload(numbers, part))?,
                    Device::Cpu => {
                        host.span(part).with_mut(|numbers| side.download(part, numbers))??;
                        gpu.tell()
                    }
                }
            })
        }

        /// Tells the GPU of the route, if there is one, where this pass begins. Whether the tokens were looked up there.
        pub(crate) fn begin_on_gpu(&mut self, tokens: &[u32]) -> Result<bool> {
            if self.devices.gpu.is_none() {
                return Ok(false);
            }
            // One token's numbers cross faster than a copy starts.
            let brought = tokens.len() > 1 && self.devices.of_layer(0).attention == Device::Gpu(self.card().number());
            let embedded = self.on_gpu(|gpu| {
                gpu.tell()?;
                let (side, host) = (&mut *gpu.side, &mut *gpu.host);
                let Pass { spec, quants, tiers, first_position, .. } = host;
                side.begin(*first_position, tokens)?;
                let embedded = side.embed(spec, quants, tiers, tokens.len())?;
                Ok(embedded || brought && side.embed_brought(spec, quants, tiers, tokens)?)
            })?;
            if embedded {
                self.devices.x_at = Device::Gpu(self.card().number());
            }
            Ok(embedded)
        }

        /// Ends this pass: nobody waits for the processor any more.
        #[allow(clippy::redundant_closure_for_method_calls)] // The method is not general enough in its lifetimes.
        pub(crate) fn end_on_gpu(&mut self) -> Result<()> {
            if self.devices.gpu.is_some() { self.on_gpu(|gpu| gpu.pay()) } else { Ok(()) }
        }

        /// The GPU of the route.
        pub(crate) fn card(&mut self) -> &mut GpuSide {
            let Some(side) = &mut self.devices.gpu else { unreachable!("{LENT_ONCE}") };
            side
        }

        fn on_gpu<T>(&mut self, run: impl FnOnce(&mut GpuPass) -> Result<T>) -> Result<T> {
            let Some(mut side) = self.devices.gpu.take() else { unreachable!("{LENT_ONCE}") };
            let outcome = run(&mut GpuPass { host: self, side: &mut side });
            self.devices.gpu = Some(side);
            outcome
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use std::ops::Range;

    use kernels::cpu::{Awake, Pool};
    use plan::KvPlan;

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

        /// What has gone between the processor and a GPU so far: nothing.
        #[allow(clippy::unused_self)] // As where there are GPUs.
        pub(crate) fn traffic(&self) -> Traffic {
            Traffic::default()
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
        pub(crate) fn begin_on_gpu(&mut self, _: &[u32]) -> Result<bool> {
            Ok(false)
        }

        /// Layers that are a GPU's alone: there are none.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut)] // As where there are GPUs.
        pub(crate) fn recorded(
            &mut self,
            _: &Range<usize>,
            _: u64,
            _: impl FnOnce(&mut Self) -> Result<()>,
        ) -> Result<()> {
            unreachable!("{NO_GPU}")
        }

        /// Ends this pass: nobody waits.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, clippy::unnecessary_wraps)] // As where there are GPUs.
        pub(crate) fn end_on_gpu(&mut self) -> Result<()> {
            Ok(())
        }

        /// Copies part of a register to the same on `device`, from the other one.
        #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut)] // As where there are GPUs.
        pub(crate) fn cross(&mut self, _: Part, _: Device) -> Result<()> {
            unreachable!("{NO_GPU}")
        }
    }
}
