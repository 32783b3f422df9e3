//! GPUs, as the driver shows them. Looking takes no memory on them, and measures nothing: rates are estimates from what a card says of
//! itself.

use kernels::cuda::{GpuInfo, count};
use plan::card::CardKernels;
use plan::{Bytes, BytesPerSecond, Gpu, Rate, Source};

use crate::cache::Rates;
use crate::{CardRates, rate};

/// What kernels read of a card's nominal bandwidth: matrices of 2 bits a number read the least of it.
const READ_SHARE: f64 = 0.6;
/// For a card that does not tell: the slowest of its age.
const READ: f64 = 100e9;
/// `PCIe` 3.0 with 16 lanes, or 4.0 with 8.
const LINK: f64 = 10e9;
/// Operations in prefill of one multiprocessor: a third of what an RTX 3060 is to do.
const OPS_PER_MULTIPROCESSOR: f64 = 0.5e12;

/// Every GPU by its number, with what was measured of it. None where there is no driver.
pub(crate) fn gpus(rates: Option<&Rates>) -> Vec<Gpu> {
    let numbers = 0..count().unwrap_or(0);
    let infos = numbers.map_while(|number| GpuInfo::of(number).ok());
    infos.map(|info| gpu(&info, rates.and_then(|rates| rates.cards.get(&info.uuid)))).collect()
}

/// Why the driver shows none, if that is so.
#[must_use]
pub fn driver_trouble() -> Option<String> {
    let error = count().err()?.to_string();
    error.lines().next().map(str::to_owned)
}

/// The driver's own part: 532 MiB on an H100 with 132 multiprocessors, and never little.
fn context(multiprocessors: u32) -> Bytes {
    Bytes((256 << 20) + u64::from(multiprocessors) * (9 << 18)).max(plan::cost::gpu::CONTEXT)
}

fn gpu(info: &GpuInfo, measured: Option<&CardRates>) -> Gpu {
    let read = if info.bandwidth > 0.0 { READ_SHARE * info.bandwidth } else { READ };
    let link_back = measured.map(|card| Rate { rate: BytesPerSecond(card.link_back.median), source: Source::Measured });
    let operations = OPS_PER_MULTIPROCESSOR * f64::from(info.multiprocessors);
    Gpu {
        name: info.name.clone(),
        memory_total: info.memory,
        memory_free: info.memory_free(),
        capability: info.capability,
        read: rate(measured.map(|card| &card.read), read),
        link: rate(measured.map(|card| &card.link), LINK),
        ops_per_second: measured.map_or(operations, |card| card.operations.median),
        link_back,
        crossing_s: measured.map_or(0.0, |card| card.crossing_s),
        launch_s: measured.map_or(0.0, |card| card.launch_s),
        kernels: measured.map_or_else(CardKernels::default, |card| card.kernels.clone()),
        context: measured.map_or(context(info.multiprocessors), |card| card.context),
    }
}
