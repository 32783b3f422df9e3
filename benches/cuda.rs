//! How fast a card's memory and links are: `cargo bench -p kernels --features cuda --bench cuda`.

use kernels::cuda::{Gpu, GpuInfo};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let info = GpuInfo::of(0)?;
    let gpu = Gpu::open(0, info.memory)?;
    println!("{info:?}: {} taken by the driver", gpu.used());
    Ok(())
}
