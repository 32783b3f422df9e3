//! The engine: a model laid over its tiers, ready to make logits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kernels::cpu::{Isa, Pool, RopeTable, dequantize};
use kernels::memory::ByteSource;
use plan::{Bytes, ExpertUse, Plan};
use tiers::Tiers;

use crate::blocks::{Pass, Quants};
use crate::check::{check, check_activations, check_finite, check_route, copy_finite};
use crate::devices::Devices;
use crate::experts::{ExpertRecord, Trace};
use crate::lookahead::{After, Lookahead};
use crate::scratch::Scratch;
use crate::spec::{Form, Spec};
use crate::stats::{Moment, Record};
use crate::{EngineError, Session, Stats};

type Result<T> = std::result::Result<T, EngineError>;

/// A model in its tiers.
pub struct Engine {
    spec: Spec,
    quants: Quants,
    frequencies: Vec<Vec<f32>>,
    turns: Vec<RopeTable>,
    tiers: Tiers,
    lookahead: Lookahead,
    experts: ExpertRecord,
    pool: Pool,
    scratch: Scratch,
    devices: Devices,
    logits: Vec<f32>,
    plan: Plan,
    interrupt: Arc<AtomicBool>,
    record: Record,
}

impl Engine {
    /// Checks the model against its architecture, allocates everything the plan says and loads what lives in RAM.
    /// `sources` are the model's files in the order of its inventory. `progress` hears bytes loaded and to load.
    ///
    /// # Errors
    /// Where the architecture or a tensor type is not supported, tensors do not fit, memory is refused or a file
    /// cannot be read.
    pub fn open(
        model: &gguf::Model,
        plan: Plan,
        isa: Isa,
        sources: Vec<Arc<dyn ByteSource>>,
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self> {
        let started = Instant::now();
        let inventory = &model.inventory;
        let spec = check(model, plan.kv.tokens)?;
        let quants = Quants::of(inventory);
        let devices = Devices::new(check_route(&plan, &spec, inventory)?);
        let mut tiers = Tiers::open(&plan, inventory, sources, progress)?;
        let frequencies = frequencies(&spec, &quants, &mut tiers)?;
        let embedding = inventory.tensor_of(inventory.unit(spec.embedding));
        check_activations(&plan, &spec, inventory)?;
        #[cfg(feature = "cuda")]
        let devices = devices.opened((&spec, &quants, inventory), &plan, &frequencies, &mut tiers)?;
        let scratch = Scratch::new(&spec, inventory, &plan, embedding.row_bytes().0 as usize)?;
        let turns = frequencies.iter().map(|f| RopeTable::with_capacity(f.len(), plan.micro_batch as usize));
        let turns = turns.collect();
        let pool = Pool::new(plan.threads as usize, isa).map_err(|source| EngineError::Threads { source })?;
        let logits = vec![0.0; spec.vocabulary];
        let record = Record { load: started.elapsed(), ..Record::default() };
        let interrupt = Arc::new(AtomicBool::new(false));
        let (lookahead, experts) = (Lookahead::new(plan.foresee), ExpertRecord::new(inventory));
        Ok(Self {
            spec,
            quants,
            frequencies,
            turns,
            tiers,
            lookahead,
            experts,
            pool,
            scratch,
            devices,
            logits,
            plan,
            interrupt,
            record,
        })
    }

    /// A new conversation, its cache allocated as planned.
    ///
    /// # Errors
    /// Where memory is refused.
    pub fn session(&self) -> Result<Session> {
        Session::new(&self.spec, &self.plan.kv, self.devices.memories(&self.spec, &self.plan.kv)?)
    }

    /// Raised, it ends the pass under way before its next layer, with [`EngineError::Interrupted`]. The engine lowers
    /// it when it has done so.
    #[must_use]
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    /// Whether quantized weights are unpacked to `f32` and meet their input as it is, instead of rounded to 8 bits: several
    /// times slower, to be compared with exact references.
    pub fn compute_exactly(&mut self, exact: bool) {
        self.scratch.rounded.set_exact(exact);
    }

    /// The plan it runs under.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Tokens in the vocabulary: the length of logits.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.spec.vocabulary
    }

    /// What differs from the plan since the system refused something.
    #[must_use]
    pub fn fallbacks(&self) -> &[String] {
        self.tiers.fallbacks()
    }

    /// Bytes that weights, ring and activations hold.
    #[must_use]
    pub fn allocated(&self) -> Bytes {
        self.tiers.allocated() + self.scratch.bytes()
    }

    /// How often each expert was chosen since the engine was opened or [`Self::reset_stats`].
    #[must_use]
    pub const fn expert_use(&self) -> &ExpertUse {
        &self.experts.uses
    }

    /// Tells `trace` of every choice of a router from now on, or nobody.
    pub fn trace_experts(&mut self, trace: Option<Trace>) {
        self.experts.trace = trace;
    }

    /// Adds a prompt to the session, micro-batch by micro-batch, and gives the logits of its last token.
    ///
    /// # Errors
    /// Where the prompt is empty or does not fit, names no token, or a pass fails or is interrupted. The session then
    /// holds what it held before.
    pub fn prefill(&mut self, session: &mut Session, tokens: &[u32]) -> Result<&[f32]> {
        let (started, before) = (Instant::now(), self.moment());
        self.extend(session, tokens)?;
        self.record.prompt.add(tokens.len(), started.elapsed(), &before, &self.moment());
        self.record.ttft = Some(started.elapsed());
        Ok(&self.logits)
    }

    /// Adds one token to the session and gives its logits.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, session: &mut Session, token: u32) -> Result<&[f32]> {
        let (started, before) = (Instant::now(), self.moment());
        self.extend(session, &[token])?;
        self.record.decode.add(1, started.elapsed(), &before, &self.moment());
        Ok(&self.logits)
    }

    /// Adds tokens to the session and hands the logits of each position, counted from the first of `tokens`, to `use_them`.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn every_logit(
        &mut self,
        session: &mut Session,
        tokens: &[u32],
        use_them: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check(session, tokens)?;
        let start = session.position();
        let outcome = self.every_logit_from(start, session, tokens, use_them);
        if outcome.is_err() {
            self.take_back(session, start);
        } else {
            session.settle();
        }
        outcome
    }

    fn every_logit_from(
        &mut self,
        start: usize,
        session: &mut Session,
        tokens: &[u32],
        use_them: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let most = self.plan.logits.rows() as usize;
        let mut batches = tokens.chunks(self.scratch.tokens()).peekable();
        while let Some(batch) = batches.next() {
            let base = session.position();
            let next = batches.peek().map_or(1, |next| next.len());
            self.pass(session, batch, batch.len().div_ceil(most), next)?;
            for first in (0..batch.len()).step_by(most) {
                if self.interrupt.swap(false, Ordering::Relaxed) {
                    return Err(EngineError::Interrupted);
                }
                let vocabulary = self.spec.vocabulary;
                self.at(base, batch.len()).logits(first, most.min(batch.len() - first), &mut |rows| {
                    for (row, position) in rows.chunks(vocabulary).zip(base + first..) {
                        check_finite(row, position)?;
                        use_them(position - start, row);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// What was done since the engine was opened or [`Self::reset_stats`]. `ram_peak` is the process's peak resident
    /// size, which the engine does not know.
    #[must_use]
    pub fn stats(&self, ram_peak: Bytes) -> Stats {
        let mut stats = Stats { expert_cache: self.experts.cache, ..self.record.stats(&self.plan, ram_peak) };
        stats.disk.drives = self.tiers.drives().into_iter().map(Into::into).collect();
        #[cfg(feature = "cuda")]
        let stats = self.devices.measured(stats);
        let fallbacks = stats.fallbacks.into_iter().chain(self.tiers.fallbacks().iter().cloned());
        Stats { fallbacks: fallbacks.collect(), ..stats }
    }

    /// Forgets the counts of passes, not the time of loading.
    pub fn reset_stats(&mut self) {
        self.record = Record { load: self.record.load, ..Record::default() };
        self.experts.forget();
    }

    fn moment(&self) -> Moment {
        Moment { counts: self.tiers.counts(), cards: self.devices.traffic(&self.tiers) }
    }

    fn check(&self, session: &Session, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.spec.vocabulary;
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(EngineError::NoSuchToken { token, vocabulary });
        }
        session.check_room(tokens.len())
    }

    /// Adds tokens to the session, micro-batch by micro-batch, and keeps the logits of the last. The session is as it was
    /// where that fails.
    fn extend(&mut self, session: &mut Session, tokens: &[u32]) -> Result<()> {
        self.check(session, tokens)?;
        let (start, most) = (session.position(), self.scratch.tokens());
        let mut passes = || {
            let mut batches = tokens.chunks(most).peekable();
            while let Some(batch) = batches.next() {
                let next = batches.peek().map(|next| next.len());
                self.pass(session, batch, usize::from(next.is_none()), next.unwrap_or(1))?;
            }
            self.take_logits(session, (tokens.len() - 1) % most)
        };
        let outcome = passes();
        if outcome.is_err() {
            self.take_back(session, start);
        } else {
            session.settle();
        }
        outcome
    }

    /// Forgets what a pass that failed left behind.
    fn take_back(&mut self, session: &mut Session, start: usize) {
        // First: caches of cards wait for them when they are dropped.
        self.devices.give_up();
        session.take_back(start);
        self.lookahead.reset();
    }

    /// How latent attention is computed for so many tokens after others.
    fn form(&self, tokens: usize, before: usize) -> Form {
        let (Some((heads, latent)), Some(rooms)) = (self.spec.latent(), &self.scratch.latent) else {
            return Form::DECODE;
        };
        latent.form(heads, tokens, before, rooms.sizes(latent))
    }

    /// One micro-batch through all layers; the residual stream is left in the scratch. The output is asked for `logits`
    /// times after it, and then a pass over `next` tokens will most likely follow.
    fn pass(&mut self, session: &mut Session, tokens: &[u32], logits: usize, next: usize) -> Result<()> {
        let interrupt = Arc::clone(&self.interrupt);
        let before = session.position();
        let first = before as u32;
        let form = self.form(tokens.len(), before);
        self.devices.streaming = self.devices.route.of_pass(tokens.len());
        let streaming = self.devices.route.of_pass(next);
        let after = After { logits, form: self.form(next, before + tokens.len()), streaming };
        let _awake = self.devices.keep_awake(&self.pool);
        self.experts.passes(tokens.len());
        let this = (form, self.devices.streaming);
        self.lookahead.begin(&mut self.tiers, &self.spec, &self.devices.route, this, after)?;
        for ((table, frequencies), rope) in self.turns.iter_mut().zip(&self.frequencies).zip(&self.spec.ropes) {
            table.fill(first..first + tokens.len() as u32, frequencies, rope.magnitude);
        }
        let mut pass = Pass { form, ..self.at(before, tokens.len()) };
        pass.embed(tokens)?;
        pass.layers(session, &interrupt)?;
        pass.end_on_cards()?;
        pass.settle(&mut session.layers)?;
        session.tokens.extend_from_slice(tokens);
        Ok(())
    }

    fn at(&mut self, first_position: usize, tokens: usize) -> Pass<'_> {
        Pass {
            spec: &self.spec,
            quants: &self.quants,
            turns: &self.turns,
            tiers: &mut self.tiers,
            lookahead: &mut self.lookahead,
            experts: &mut self.experts,
            pool: &self.pool,
            scratch: &mut self.scratch,
            devices: &mut self.devices,
            tokens,
            first_position,
            form: Form::DECODE,
        }
    }

    /// Copies the logits of one token of the last pass out, and refuses them where they are not finite.
    fn take_logits(&mut self, session: &Session, row: usize) -> Result<()> {
        let mut logits = std::mem::take(&mut self.logits);
        let outcome = self
            .at(session.position(), 1)
            .logits(row, 1, &mut |numbers| copy_finite(numbers, &mut logits, session.position() - 1));
        self.logits = logits;
        outcome
    }
}

/// The frequencies of each rope, divided by the model's divisors where it has some.
fn frequencies(spec: &Spec, quants: &Quants, tiers: &mut Tiers) -> Result<Vec<Vec<f32>>> {
    spec.ropes
        .iter()
        .map(|rope| {
            let Some(vector) = &rope.divisors else {
                return Ok(rope.frequencies.iter().map(|f| *f as f32).collect());
            };
            let (unit, quant) = (vector.slice.unit, quants.get(vector.slice.unit));
            let mut row = vec![0; vector.length * quant.block_bytes()];
            let mut divisors = vec![0.0; vector.length];
            tiers.gather(unit, 0, &mut row)?;
            dequantize(quant, &row, &mut divisors);
            Ok(rope.frequencies.iter().zip(&divisors).map(|(f, d)| (f / f64::from(*d)) as f32).collect())
        })
        .collect()
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("tiers", &self.tiers)
            .field("allocated", &self.allocated())
            .finish_non_exhaustive()
    }
}
