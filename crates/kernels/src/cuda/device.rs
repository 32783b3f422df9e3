//! A card: what it is, its ceiling of bytes, its two streams and its kernels.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUresult};
use plan::Bytes;

use super::driver::{check, init};
use super::launch::Kernel;
use super::recording::none_meanwhile;
use super::{CudaError, Stream, module};

/// The oldest compute capability that machine code or PTX is compiled for.
const OLDEST: (u32, u32) = (8, 0);

/// What the driver says of a card.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuInfo {
    /// Its number in `gpu:N`, as the driver counts.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor: (8, 6) is `sm_86`.
    pub capability: (u32, u32),
    /// All of its memory.
    pub memory: Bytes,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of the second-level cache.
    pub l2_cache: Bytes,
    /// Bytes per second of its memory by its clock and width, which no program reaches; 0 where the driver does not tell.
    pub bandwidth: f64,
    /// Where it is on the PCI bus: `0000:01:00.0`.
    pub pci: String,
    /// What no other card has: 16 bytes in hexadecimal digits.
    pub uuid: String,
    /// Whether a stream can wait for a word in the host's memory.
    pub(super) waits_for_words: bool,
}

/// How many cards the driver shows.
///
/// # Errors
/// [`CudaError::NoDriver`], [`CudaError::OldDriver`].
pub fn count() -> Result<u32, CudaError> {
    init()?;
    let mut count = 0;
    // SAFETY: the driver has started and `count` is writable.
    check(0, "counting cards", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    Ok(count.max(0) as u32)
}

impl GpuInfo {
    /// Asks about card `ordinal`, without taking any memory on it.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::OldDriver`], [`CudaError::NoDevice`]. Old cards are told, not refused.
    pub fn of(ordinal: u32) -> Result<Self, CudaError> {
        let device = device(ordinal)?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: a device of the driver's, and `value` is writable.
            let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) };
            if result == CUresult::CUDA_SUCCESS { value.max(0) as u32 } else { 0 }
        };
        let (mut name, mut pci, mut memory) = ([0_u8; 256], [0_u8; 32], 0);
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: a device of the driver's; each buffer is writable and as long as is said.
        unsafe {
            let result = sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device);
            check(ordinal, "asking for its name", result)?;
            let result = sys::cuDeviceGetPCIBusId(pci.as_mut_ptr().cast(), pci.len() as i32, device);
            check(ordinal, "asking for its place", result)?;
            check(ordinal, "asking for its memory", sys::cuDeviceTotalMem_v2(&raw mut memory, device))?;
            check(ordinal, "asking which it is", sys::cuDeviceGetUuid_v2(&raw mut uuid, device))?;
        }
        let text = |bytes: &[u8]| {
            CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let kilohertz = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
        let bits = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
        Ok(Self {
            ordinal,
            name: text(&name),
            capability: (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            ),
            memory: Bytes(memory as u64),
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            l2_cache: Bytes(u64::from(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE))),
            // Two transfers a clock.
            bandwidth: 2e3 * f64::from(kilohertz) * f64::from(bits) / 8.0,
            pci: text(&pci),
            uuid: uuid.bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
            waits_for_words: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS) != 0,
        })
    }
}

fn device(ordinal: u32) -> Result<CUdevice, CudaError> {
    let count = count()?;
    if ordinal >= count {
        return Err(CudaError::NoDevice { ordinal, count });
    }
    let mut device = 0;
    // SAFETY: the driver has started and `device` is writable.
    check(ordinal, "finding it", unsafe { sys::cuDeviceGet(&raw mut device, ordinal as i32) })?;
    Ok(device)
}

/// A card in use. Clones are the same card; the last one gives it back.
#[derive(Clone)]
pub struct Gpu {
    context: Arc<Context>,
    compute: Arc<Stream>,
    copies: Arc<Stream>,
}

impl Gpu {
    /// Opens card `ordinal`, loads every kernel, and counts what that takes against `ceiling`, as all that is allocated from now on.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::OldDriver`], [`CudaError::NoDevice`], [`CudaError::OldDevice`], and
    /// [`CudaError::OverCeiling`] where the ceiling does not even hold the driver's own part.
    pub fn open(ordinal: u32, ceiling: Bytes) -> Result<Self, CudaError> {
        let info = GpuInfo::of(ordinal)?;
        let (major, minor) = info.capability;
        if info.capability < OLDEST {
            return Err(CudaError::OldDevice { ordinal, name: info.name, major, minor });
        }
        let context = Arc::new(Context::open(info, ceiling)?);
        let compute = Arc::new(Stream::new(&context)?);
        let copies = Arc::new(Stream::new(&context)?);
        context.count_own_bytes()?;
        Ok(Self { context, compute, copies })
    }

    /// What the card is.
    #[must_use]
    pub fn info(&self) -> &GpuInfo {
        &self.context.info
    }

    /// The stream of kernels.
    #[must_use]
    pub fn compute(&self) -> &Stream {
        &self.compute
    }

    pub(super) fn compute_shared(&self) -> Arc<Stream> {
        Arc::clone(&self.compute)
    }

    /// The stream of weights on their way to the card, beside [`compute`](Self::compute).
    #[must_use]
    pub fn copies(&self) -> &Stream {
        &self.copies
    }

    /// The most bytes that may be taken.
    #[must_use]
    pub fn ceiling(&self) -> Bytes {
        self.context.ceiling
    }

    /// Bytes taken now: the driver's own part and every [`Arena`](super::Arena).
    #[must_use]
    pub fn used(&self) -> Bytes {
        self.context.ledger().used
    }

    /// The most bytes that were taken at one time.
    #[must_use]
    pub fn peak(&self) -> Bytes {
        self.context.ledger().peak
    }

    /// Bytes that the card has given away since it was opened, as NVIDIA's management library says: to this program, and to others that have
    /// taken more since then. None where the library does not tell.
    #[must_use]
    pub fn given(&self) -> Option<Bytes> {
        let (before, now) = (self.context.taken_before?, super::nvml::used(&self.info().pci)?);
        Some(now.saturating_sub(before))
    }

    /// Bytes that no program has taken, as the driver says.
    ///
    /// # Errors
    /// [`CudaError::Lost`].
    pub fn free(&self) -> Result<Bytes, CudaError> {
        self.context.free()
    }

    /// Waits until everything asked of this card is done.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where some of it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.context.synchronize()
    }

    pub(super) const fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({}: {})", self.info().ordinal, self.info().name)
    }
}

/// Bytes taken on a card.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    used: Bytes,
    peak: Bytes,
}

/// The driver's state for a card, which buffers and streams keep alive.
pub(super) struct Context {
    pub(super) info: GpuInfo,
    ceiling: Bytes,
    raw: CUcontext,
    /// Tells this context from one that is opened later at the same address.
    number: u64,
    device: CUdevice,
    kernels: HashMap<String, Kernel>,
    ledger: Mutex<Ledger>,
    /// How often memory was given back.
    given_back: AtomicU64,
    /// Bytes of the card that were taken before it was opened, where that can be known.
    taken_before: Option<Bytes>,
}

// SAFETY: handles, which the driver lets any thread use; all else is guarded.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    fn open(info: GpuInfo, ceiling: Bytes) -> Result<Self, CudaError> {
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let (ordinal, device) = (info.ordinal, device(info.ordinal)?);
        let taken_before = super::nvml::used(&info.pci);
        let mut raw = null_mut();
        // SAFETY: a device of the driver's, and `raw` is writable.
        check(ordinal, "opening it", unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) })?;
        let (ledger, number) = (Mutex::default(), OPENED.fetch_add(1, Ordering::Relaxed));
        let (kernels, given_back) = (HashMap::new(), AtomicU64::new(0));
        let mut context = Self { info, ceiling, raw, number, device, kernels, ledger, given_back, taken_before };
        context.bind()?;
        // SAFETY: the context is current, and the kernels stay in it.
        context.kernels = unsafe { module::load(ordinal)? };
        Ok(context)
    }

    /// Makes this context the calling thread's. Costs nothing where it is already.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        thread_local! {
            static CURRENT: Cell<u64> = const { Cell::new(0) };
        }
        CURRENT.with(|current| {
            if current.get() == self.number {
                return Ok(());
            }
            // SAFETY: the context is retained as long as `self` lives.
            self.check("switching to it", unsafe { sys::cuCtxSetCurrent(self.raw) })?;
            current.set(self.number);
            Ok(())
        })
    }

    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        let _turn = none_meanwhile();
        self.bind()?;
        // SAFETY: a context is current.
        self.check("waiting for it", unsafe { sys::cuCtxSynchronize() })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel of this name.
    pub(super) fn kernel(&self, name: &str) -> Result<Kernel, CudaError> {
        let found = self.kernels.get(name).copied();
        found.ok_or_else(|| CudaError::NoKernel { ordinal: self.info.ordinal, name: name.into() })
    }

    fn free(&self) -> Result<Bytes, CudaError> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: a context is current and both are writable.
        self.check("asking for free memory", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok(Bytes(free as u64))
    }

    /// Counts the driver's own part: its structures, code, stacks. Where only the card's sum is known, others' bytes count too.
    fn count_own_bytes(&self) -> Result<(), CudaError> {
        let sum = match (self.taken_before, super::nvml::used(&self.info.pci)) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => self.info.memory.saturating_sub(self.free()?),
        };
        self.reserve(sum, "the driver's own part")
    }

    /// Counts `bytes` more, or refuses.
    fn reserve(&self, bytes: Bytes, what: &str) -> Result<(), CudaError> {
        let mut ledger = self.ledger();
        let (used, ceiling) = (ledger.used, self.ceiling);
        if used + bytes > ceiling {
            let (ordinal, what) = (self.info.ordinal, what.into());
            return Err(CudaError::OverCeiling { ordinal, what, asked: bytes, used, ceiling });
        }
        ledger.used = used + bytes;
        ledger.peak = ledger.peak.max(ledger.used);
        Ok(())
    }

    /// Takes `bytes` bytes of the card for `what`, under the ceiling.
    pub(super) fn allocate(&self, bytes: Bytes, what: &str) -> Result<u64, CudaError> {
        self.bind()?;
        self.reserve(bytes, what)?;
        let mut address = 0;
        // SAFETY: a context is current and `address` is writable.
        match unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes.0 as usize) } {
            CUresult::CUDA_SUCCESS => Ok(address),
            error => {
                self.release(bytes);
                self.check("allocating", error).map_err(|error| match error {
                    CudaError::Call { ordinal, .. } => CudaError::OutOfMemory {
                        ordinal,
                        what: what.into(),
                        asked: bytes,
                        free: self.free().unwrap_or_default(),
                    },
                    other => other,
                })?;
                Ok(address)
            }
        }
    }

    /// How often memory was given back so far: as long as it stays the same, every address that was valid is.
    pub(super) fn times_given_back(&self) -> u64 {
        self.given_back.load(Ordering::Acquire)
    }

    /// Counts that memory of the card, or pinned memory that it writes by itself, is about to be given back.
    pub(super) fn count_given_back(&self) {
        self.given_back.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives back what [`Self::allocate`] took, after all work that may touch it.
    ///
    /// # Safety
    /// `address` came from `allocate(bytes)` and is used by no later work.
    pub(super) unsafe fn give_back(&self, address: u64, bytes: Bytes) {
        self.count_given_back();
        // A card that is lost has no work left and no memory to give back.
        if self.synchronize().is_ok() {
            // SAFETY: the caller's promise, and all work has finished.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
        self.release(bytes);
    }

    fn release(&self, bytes: Bytes) {
        let mut ledger = self.ledger();
        ledger.used = ledger.used.saturating_sub(bytes);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context(gpu:{})", self.info.ordinal)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `open`, once, and nothing refers to it any more: buffers, streams and events keep it alive.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
