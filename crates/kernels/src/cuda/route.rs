//! The router of a mixture on a card, and the way of its choice to the processor.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use plan::Bytes;

use super::launch::{Address, Param, Shape, launch};
use super::{Arena, CHOICES_MAX, CudaError, DeviceBuffer, Gpu, Pinned, Slice, SliceMut, Stream};
use crate::cpu::{Gate, Routing};

/// Warps, and so tokens, of a block.
const WARPS: usize = 8;
/// Tokens whose choice can be sent to the processor: those of one block.
pub const SENT_TOKENS_MAX: usize = WARPS;
/// The most experts of a layer: what a block's memory holds.
pub const EXPERTS_MAX: usize = 1024;
/// Numbers between the flag and the choice: a cache line of its own.
const FLAG: usize = 64;
/// How often the stream is asked whether it still lives while the processor watches.
const ASK: Duration = Duration::from_millis(2);

/// `struct Route` of `route.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    logits: Address,
    bias: Address,
    chosen: Address,
    weights: Address,
    host_chosen: Address,
    host_weights: Address,
    signal: Address,
    turn: Address,
    tokens: u32,
    experts: u32,
    used: u32,
    gate: u32,
    groups: u32,
    groups_used: u32,
    group_best: u32,
    normalize: u32,
    scale: f32,
}

// SAFETY: the kernel's structure, field for field.
unsafe impl Param for Parameters {}

/// The way of a router's choices to the processor. The card counts the turns by itself, so that a launch can be replayed.
#[derive(Debug)]
pub struct RouteMail {
    gpu: Gpu,
    /// A flag's cache line, then experts, then the bits of their weights: written by the card.
    mail: Pinned<u32>,
    turn: DeviceBuffer<u32>,
    seen: u32,
}

impl RouteMail {
    /// What it takes of an arena.
    pub const BYTES: Bytes = Arena::bytes_of::<u32>(1);

    /// A way for the choices of up to [`SENT_TOKENS_MAX`] tokens, [`CHOICES_MAX`] each.
    ///
    /// # Errors
    /// [`CudaError::NotPinned`], or where the arena has too little.
    pub fn new(gpu: &Gpu, arena: &mut Arena) -> Result<Self, CudaError> {
        let mail = Pinned::new(gpu, FLAG + 2 * SENT_TOKENS_MAX * CHOICES_MAX)?;
        let mut turn = arena.take(1)?;
        gpu.compute().upload_now(&[0], &mut turn.slice_mut())?;
        Ok(Self { gpu: gpu.clone(), mail, turn, seen: 0 })
    }

    /// Waits for the next turn's choice: experts and weights of all tokens.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed before.
    ///
    /// # Panics
    /// Where the two differ in length or are more than can be sent.
    pub fn receive(&mut self, chosen: &mut [u32], weights: &mut [f32]) -> Result<(), CudaError> {
        assert_eq!(chosen.len(), weights.len(), "an expert has a weight");
        assert!(chosen.len() <= SENT_TOKENS_MAX * CHOICES_MAX, "{} choices", chosen.len());
        let wanted = self.seen.wrapping_add(1);
        let mut asked = Instant::now();
        while self.word(0).load(Ordering::Acquire) != wanted {
            std::hint::spin_loop();
            if asked.elapsed() > ASK {
                self.gpu.compute().is_idle()?;
                asked = Instant::now();
            }
        }
        self.seen = wanted;
        for (i, (chosen, weight)) in chosen.iter_mut().zip(weights).enumerate() {
            *chosen = self.word(FLAG + i).load(Ordering::Relaxed);
            let bits = self.word(FLAG + SENT_TOKENS_MAX * CHOICES_MAX + i).load(Ordering::Relaxed);
            *weight = f32::from_bits(bits);
        }
        Ok(())
    }

    /// Forgets a choice that was not received, once the stream has come to its end.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where the stream's work failed before.
    pub fn give_up(&mut self) -> Result<(), CudaError> {
        self.gpu.compute().synchronize()?;
        self.seen = self.word(0).load(Ordering::Acquire);
        Ok(())
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at < self.mail.len(), "word {at} of the mail");
        // SAFETY: one of the mail's words, aligned, alive as long as the borrow, and used as an atomic only: nobody takes a slice of them.
        unsafe { AtomicU32::from_ptr(self.mail.as_raw().add(at)) }
    }

    fn address(&self, at: usize) -> Address {
        Address(self.mail.as_raw() as u64 + (at * 4) as u64)
    }
}

/// For each token's row of `logits` the experts it goes to, the best first, and their weights, as [`cpu::route`](crate::cpu::route) has them;
/// to `mail` as well where there is one.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// As [`cpu::route`](crate::cpu::route), and where a token uses more than [`CHOICES_MAX`] experts of more than 1,024, or more than
/// [`SENT_TOKENS_MAX`] tokens are to be sent.
pub fn route(
    stream: &Stream,
    routing: &Routing,
    logits: Slice<'_, f32>,
    bias: Option<Slice<'_, f32>>,
    chosen: &mut SliceMut<'_, u32>,
    weights: &mut SliceMut<'_, f32>,
    mail: Option<&mut RouteMail>,
) -> Result<(), CudaError> {
    let Routing { experts, used, gate, groups, groups_used, group_best, normalize, scale } = *routing;
    crate::cpu::check_routing(routing);
    assert!(used <= CHOICES_MAX && experts <= EXPERTS_MAX, "{used} of {experts} experts");
    let tokens = logits.len() / experts;
    assert_eq!(logits.len(), tokens * experts, "logits are not rows of {experts}");
    assert!(chosen.len() == tokens * used && weights.len() == tokens * used, "{tokens} tokens, {used} experts each");
    assert!(bias.is_none_or(|bias| bias.len() == experts), "a bias is not one for each of {experts} experts");
    assert!(mail.is_none() || tokens <= SENT_TOKENS_MAX, "{tokens} tokens are sent");
    if tokens == 0 {
        return Ok(());
    }
    let none = Address::NONE;
    let [host_chosen, host_weights, signal, turn] = mail.map_or([none; 4], |mail| {
        let weights = mail.address(FLAG + SENT_TOKENS_MAX * CHOICES_MAX);
        [mail.address(FLAG), weights, mail.address(0), mail.turn.slice_mut().address()]
    });
    let parameters = Parameters {
        logits: logits.address(),
        bias: Address::of(bias),
        chosen: chosen.address(),
        weights: weights.address(),
        host_chosen,
        host_weights,
        signal,
        turn,
        tokens: tokens as u32,
        experts: experts as u32,
        used: used as u32,
        gate: match gate {
            Gate::Softmax => 0,
            Gate::Sigmoid => 1,
            Gate::SoftmaxOfChosen => 2,
        },
        groups: groups as u32,
        groups_used: groups_used as u32,
        group_best: group_best as u32,
        normalize: u32::from(normalize),
        scale,
    };
    let warps = tokens.min(WARPS);
    let shape = Shape {
        shared: (4 * warps * (2 * experts + 64 + experts.div_ceil(32) + 2)) as u32,
        ..Shape::line(tokens.div_ceil(warps) as u32, (warps * 32) as u32)
    };
    let kernel = stream.kernel("route")?;
    // SAFETY: lengths were checked against the rules; the mail has room for as many tokens and choices.
    unsafe { launch!(stream, kernel, shape, parameters) }
}
