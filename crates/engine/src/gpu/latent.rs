//! Multi-head latent attention on a card: see [`crate::spec::Latent`] for what it computes, and for its two forms.
//!
//! What a token of R1 costs in a layer, absorbed, with 4.5 bits a weight and 8.5 in the matrices by head:
//!
//! | step | MB | launches |
//! |---|---|---|
//! | what joins the stream, norm, rounding | | 1 |
//! | queries' narrow vector, latent and rotated key | 8.5 | 2 |
//! | norm of the narrow vector, queries | 21.2 | 2 |
//! | norm and turn of what is kept, turns of queries | | 1 |
//! | queries into the latent's space | 8.9 | 1 |
//! | attention over 4,096 positions, merging its splits | 4.7 | 2 |
//! | values | 8.9 | 1 |
//! | rounding, output | 66.1 | 2 |
//!
//! 118 MB are 39 µs at an H100's 3.0 TB/s and 0.33 ms at an RTX 3060's 360 GB/s; a launch takes 3.6 µs to ask for, so the first waits for the
//! processor unless launches are replayed, the second for its memory. Of a prompt, queries in the latent's space are 128 × 576 numbers a token:
//! heads are taken in groups, as many as a room of fixed size holds.
//!
//! Prompts are expanded as a rule. Of 4,096 tokens of R1 a layer's pairs of query and position cost 0.7 tera-operations so, and 2.3 absorbed, beside
//! 0.14 for the products by head in either form. The same room holds a group's matrices, unpacked, and its keys and values at all positions.

use kernels::cpu::AttentionShape;
use kernels::cuda::{
    self, Arena, AttentionForm, DeviceBuffer, Expansion, HeadMatrix, HeadNorm, HeadPart, HeadRooms, HeadSteps,
    HeadTurn, HeadsTo, KvPart, KvStore, MATVEC_COLUMNS, Matrix, Rows, Sight, Slice, SliceMut, head_product,
    head_product_transposed,
};
use plan::{Bytes, KvType, UnitId};
use tiers::RowSlice;

use super::pass::GpuPass;
use super::{CardCache, Result};
use crate::spec::{Attention, HeadRows, Latent, LatentQuery, Spec};
use crate::steps::{Part, Register, Steps};

/// Where rows begin, so that kernels read four numbers at once.
const FOURS: usize = 4;

/// Room for a group of heads: queries in the latent's space, and behind them what they gather there.
pub(super) struct LatentRoom(DeviceBuffer<f32>);

impl LatentRoom {
    /// Takes as much as a plan counts.
    pub(super) fn new(arena: &mut Arena, bytes: Bytes) -> Result<Self> {
        Ok(Self(arena.take(bytes.0 as usize / 4)?))
    }

    /// What it takes of an arena.
    pub(super) fn bytes(bytes: Bytes) -> Bytes {
        Arena::bytes_of::<f32>(bytes.0 as usize / 4)
    }
}

/// Heads that are taken at once where `numbers` numbers hold their queries: equal groups, as few as possible.
pub(super) fn group(l: &Latent, heads: usize, tokens: usize, numbers: usize) -> usize {
    let each = tokens * (2 * l.sizes.rank + l.sizes.rotated);
    let most = (numbers.saturating_sub(FOURS) / each.max(1)).clamp(1, heads.max(1));
    heads.div_ceil(heads.div_ceil(most).max(1))
}

/// Numbers of the narrow vector that queries are made from, if they are.
pub(super) const fn narrow(l: &Latent) -> usize {
    match &l.query {
        LatentQuery::Direct(_) => 0,
        LatentQuery::LowRank { down, .. } => down.outputs,
    }
}

/// Attention of a group of heads over latents.
pub(super) fn shape(l: &Latent, heads: usize, scale: f32) -> AttentionShape {
    let (dim_k, dim_v) = (l.sizes.rank + l.sizes.rotated, l.sizes.rank);
    AttentionShape { heads, kv_heads: 1, dim_k, dim_v, scale, window: None, softcap: None }
}

/// What is made of latents for a group of heads.
fn expansion(l: &Latent, heads: usize) -> Expansion {
    let s = l.sizes;
    Expansion { heads, rank: s.rank, rotated: s.rotated, key: s.plain, value: s.value }
}

/// Heads of a group where latents that are kept so are expanded in a pass of `tokens` after `before`, and `numbers` numbers hold a group's
/// matrices, keys and values; none where queries are absorbed, as those of a few tokens always are: by operations the first tokens of a conversation would
/// be expanded, which takes the matrices of all heads 33 launches and 1.4 ms of an H100, where absorbing them takes 50 µs.
fn expanded(l: &Latent, (heads, tokens, before): (usize, usize, usize), kept: KvType, numbers: usize) -> Option<usize> {
    if tokens <= MATVEC_COLUMNS {
        return None;
    }
    let (one, positions) = (expansion(l, 1), before + tokens);
    let each = one.weights() + one.numbers(positions).iter().sum::<usize>();
    let form = l.form(heads, tokens, before, (usize::MAX, numbers / each.max(1) * positions));
    let equal = |most: usize| heads.div_ceil(heads.div_ceil(most));
    (form.expanded && one.serves(kept)).then(|| equal(form.group))
}

const NO_ROOM: &str = "a latent model has room for its heads";
const NOT_THERE: &str = "a route has matrices of heads where their attention is computed";

/// Some heads of one layer in one pass.
#[derive(Clone, Copy)]
struct Group<'g> {
    a: &'g Attention,
    l: &'g Latent,
    start: usize,
    heads: usize,
    /// All heads' queries, and what is kept of each token, before they are turned.
    q: Part,
    kept: Part,
}

impl GpuPass<'_, '_> {
    /// attended = latent attention of `normed` over the cache, to which it adds this pass's latents.
    pub(super) fn latent_attention(&mut self, a: &Attention, l: &Latent, cache: &mut CardCache) -> Result<()> {
        let (now, first) = (self.now(), l.query.first());
        let (all, [mut q, made]) = now.parts(Register::Projected, [first.outputs, l.down.outputs]);
        self.products(&[first, &l.down], now.rows(Register::Normed, self.host.spec.width), all, now.tokens)?;
        if let LatentQuery::LowRank { norm, up, .. } = &l.query {
            // Nobody needs attention's output before there is one.
            let narrow = now.rows(Register::Attended, up.inputs);
            self.norm(norm, q, narrow)?;
            q = now.rows(Register::Queries, up.outputs);
            self.products(&[up], narrow, q, now.tokens)?;
        }
        let Some(room) = &self.side.latent else { unreachable!("{NO_ROOM}") };
        let before = self.host.first_position;
        if let Some(step) = expanded(l, (a.heads, now.tokens, before), cache.keys.kind(), room.0.len()) {
            let group = Group { a, l, start: 0, heads: a.heads, q, kept: made };
            self.keep_and_turn(&group, cache)?;
            for start in (0..a.heads).step_by(step) {
                self.expanded(&Group { start, heads: step.min(a.heads - start), ..group }, cache)?;
            }
            self.side.writes(now.rows(Register::Attended, a.output.inputs));
            return Ok(());
        }
        let step = group(l, a.heads, now.tokens, room.0.len());
        for start in (0..a.heads).step_by(step) {
            let group = Group { a, l, start, heads: step.min(a.heads - start), q, kept: made };
            self.turn_and_keep(&group, cache)?;
            self.absorbed(&group, cache)?;
        }
        self.side.writes(now.rows(Register::Attended, a.output.inputs));
        Ok(())
    }

    /// The rotated part of queries goes into the room, and with the first group what is kept into the cache.
    fn turn_and_keep(&mut self, g: &Group, cache: &mut CardCache) -> Result<()> {
        let (tokens, spec, side) = (self.host.tokens, self.host.spec, &mut *self.side);
        let (s, key, wide) = (g.l.sizes, g.key(), g.wide());
        let Some(room) = &mut side.latent else { unreachable!("{NO_ROOM}") };
        let mut rotated = room.0.slice_mut().split_at(s.rank).1;
        let queries = side.registers.get(g.q).range(g.start * key + s.plain..);
        let queries = HeadPart {
            from: Rows { numbers: queries, step: g.a.heads * key },
            head_step: key,
            heads: g.heads,
            dim: s.rotated,
            norm: None,
            turn: g.turn(spec, 0),
            growth: None,
            to: HeadsTo::Apart(&mut rotated, wide),
        };
        let norm = HeadNorm { weight: Some(side.vectors.get(&g.l.down_norm)), eps: spec.norm_eps, last: false };
        let latents = g.latents(side.registers.get(g.kept), norm, g.turn(spec, s.rank), &mut cache.keys);
        let mut parts = [queries, latents];
        let parts = if g.start == 0 { &mut parts[..] } else { &mut parts[..1] };
        let table = g.a.rope.map(|rope| &side.turns[rope]);
        Ok(cuda::heads(side.gpu.compute(), parts, tokens, table, side.words.slice().range(..1))?)
    }

    /// What is kept goes into the cache, and the rotated part of all heads' queries is turned where it is.
    fn keep_and_turn(&mut self, g: &Group, cache: &mut CardCache) -> Result<()> {
        let (tokens, spec, side) = (self.host.tokens, self.host.spec, &mut *self.side);
        let (stream, position) = (side.gpu.compute(), side.words.slice().range(..1));
        let table = g.a.rope.map(|rope| &side.turns[rope]);
        let norm = HeadNorm { weight: Some(side.vectors.get(&g.l.down_norm)), eps: spec.norm_eps, last: false };
        let turn = g.turn(spec, g.l.sizes.rank);
        let latents = g.latents(side.registers.get(g.kept), norm, turn, &mut cache.keys);
        cuda::heads(stream, &mut [latents], tokens, table, position)?;
        let Some(turn) = g.turn(spec, 0) else { return Ok(()) };
        let mut queries = side.registers.get_mut(g.q);
        let mut queries = queries.range(g.l.sizes.plain..);
        let none = position.range(..0).cast();
        let queries = HeadPart {
            from: Rows { numbers: none, step: g.a.heads * g.key() },
            head_step: g.key(),
            heads: g.a.heads,
            dim: g.l.sizes.rotated,
            norm: None,
            turn: Some(turn),
            growth: None,
            to: HeadsTo::Back(&mut queries),
        };
        Ok(cuda::heads(stream, &mut [queries], tokens, table, position)?)
    }

    /// Attention of a group of heads over keys and values that are made from all latents.
    fn expanded(&mut self, g: &Group, cache: &CardCache) -> Result<()> {
        let (quants, tiers, side) = (self.host.quants, &*self.host.tiers, &mut *self.side);
        let (tokens, s, heads, all) = (self.host.tokens, g.l.sizes, g.heads, g.a.heads);
        let positions = self.host.first_position + tokens;
        let (shape, stream) = (expansion(g.l, heads), side.gpu.compute());
        let Some(room) = &mut side.latent else { unreachable!("{NO_ROOM}") };
        let (mut weights, rest) = room.0.slice_mut().split_at(heads * shape.weights());
        let [of_keys, of_values] = shape.numbers(positions);
        let (mut keys, rest) = rest.split_at(of_keys);
        let mut values = rest.split_at(of_values).0;
        let unpack = |slice: RowSlice, width, to: &mut SliceMut<f32>| {
            let Some(weights) = tiers.on_card(side.number, &slice) else { unreachable!("{NOT_THERE}") };
            let rows = (slice.rows.end - slice.rows.start) as usize;
            cuda::unpack(stream, &Matrix { quant: quants.get(slice.unit), weights, rows, width }, 1.0, to)
        };
        let of_key = s.plain * s.rank;
        let rooms = match g.l.rows {
            HeadRows::Split { k, v } => {
                let (mut first, mut second) = weights.split_at(heads * of_key);
                unpack(g.rows(k, s.rank, 0), s.plain, &mut first)?;
                unpack(g.rows(v, s.value, 0), s.rank, &mut second)?;
                HeadRooms { keys: (first.into(), of_key), values: (second.into(), s.value * s.rank), transposed: true }
            }
            HeadRows::Combined(both) => {
                unpack(g.rows(both, s.plain + s.value, 0), s.rank, &mut weights)?;
                let (weights, step): (Slice<f32>, _) = (weights.into(), shape.weights());
                HeadRooms { keys: (weights, step), values: (weights.range(of_key..), step), transposed: false }
            }
        };
        cuda::expand(stream, &cache.keys, &shape, &rooms, positions, &mut keys, &mut values)?;
        let (key, value) = (g.key(), s.value);
        let form = AttentionShape { dim_k: key, dim_v: value, kv_heads: heads, ..self::shape(g.l, heads, g.a.scale) };
        let chosen = AttentionForm::choose(side.gpu.info(), &form, (KvType::F16, KvType::F16), tokens, positions);
        let fits = side.gathered.len() / (tokens * heads * (value + 2));
        let chosen = if chosen.room(&form) > side.gathered.len() { chosen.with_splits(fits) } else { chosen };
        let attended = Part { register: Register::Attended, start: 0, count: tokens * all * value };
        let (queries, mut out) = side.registers.pair(g.q, attended);
        let queries = Rows { numbers: queries.range(g.start * key..), step: all * key };
        let (keys, values) = (keys.as_slice(), values.as_slice());
        let kept = [(keys, key), (values, value)].map(|(rows, dim)| KvPart::halves(rows, heads, dim, positions));
        cuda::attention_apart(
            stream,
            &chosen,
            &form,
            queries,
            kept,
            side.words.slice().range(..1),
            &Sight::default(),
            &mut side.gathered.slice_mut(),
            (&mut out.range(g.start * value..), all * value),
        )?;
        Ok(())
    }

    /// Attention of a group of heads in the latent's space.
    fn absorbed(&mut self, g: &Group, cache: &CardCache) -> Result<()> {
        let (quants, tiers, side) = (self.host.quants, &*self.host.tiers, &mut *self.side);
        let (tokens, s, heads, all) = (self.host.tokens, g.l.sizes, g.heads, g.a.heads);
        let (key, wide) = (g.key(), g.wide());
        let shape = shape(g.l, heads, g.a.scale);
        let place = side.form(&shape, (cache.keys.kind(), cache.keys.kind()), tokens);
        let Some(room) = &mut side.latent else { unreachable!("{NO_ROOM}") };
        let count = tokens * heads * wide;
        let (mut queries, rest) = room.0.slice_mut().split_at(count.next_multiple_of(FOURS));
        let mut queries = queries.range(..count);
        let mut found = rest.split_at(tokens * heads * s.rank).0;
        let matrix = |slice: RowSlice, step, rows, width| {
            let Some(weights) = tiers.on_card(side.number, &slice) else { unreachable!("{NOT_THERE}") };
            HeadMatrix { quant: quants.get(slice.unit), weights, heads, step, rows, width }
        };
        let stream = side.gpu.compute();
        let own = side.registers.get(g.q).range(g.start * key..);
        let (from, to) = (HeadSteps { head: key, token: all * key }, HeadSteps { head: wide, token: heads * wide });
        let both = s.plain + s.value;
        match g.l.rows {
            HeadRows::Split { k, .. } => {
                let keys = matrix(g.rows(k, s.rank, 0), s.rank, s.rank, s.plain);
                head_product(stream, &keys, own, from, &mut queries, to, tokens)?;
            }
            HeadRows::Combined(unit) => {
                let keys = matrix(g.rows(unit, both, 0), both, s.plain, s.rank);
                head_product_transposed(stream, &keys, own, from, &mut queries, to, tokens)?;
            }
        }
        cuda::attention(
            stream,
            &side.forms[place].form,
            &shape,
            queries.as_slice(),
            &cache.keys,
            &cache.keys,
            side.words.slice().range(..1),
            &Sight::default(),
            &mut side.gathered.slice_mut(),
            &mut found,
        )?;
        let values = match g.l.rows {
            HeadRows::Split { v, .. } => matrix(g.rows(v, s.value, 0), s.value, s.value, s.rank),
            HeadRows::Combined(unit) => matrix(g.rows(unit, both, s.plain), both, s.value, s.rank),
        };
        let attended = Part { register: Register::Attended, start: 0, count: tokens * all * s.value };
        let mut out = side.registers.get_mut(attended);
        let mut out = out.range(g.start * s.value..);
        let (from, to) =
            (HeadSteps { head: s.rank, token: heads * s.rank }, HeadSteps { head: s.value, token: all * s.value });
        Ok(head_product(stream, &values, found.as_slice(), from, &mut out, to, tokens)?)
    }
}

impl Group<'_> {
    /// Numbers of a query and of what it meets.
    const fn key(&self) -> usize {
        self.l.sizes.plain + self.l.sizes.rotated
    }

    /// The same in the latent's space.
    const fn wide(&self) -> usize {
        self.l.sizes.rank + self.l.sizes.rotated
    }

    /// How the rotated numbers from `offset` on turn.
    fn turn(&self, spec: &Spec, offset: usize) -> Option<HeadTurn> {
        self.a.rope.map(|rope| HeadTurn { offset, style: spec.ropes[rope].style })
    }

    /// What is kept of each token: normed, turned, and put into the cache.
    fn latents<'a>(
        &self,
        numbers: Slice<'a, f32>,
        norm: HeadNorm<'a>,
        turn: Option<HeadTurn>,
        to: &'a mut KvStore,
    ) -> HeadPart<'a, 'a> {
        let wide = self.wide();
        HeadPart {
            from: Rows { numbers, step: wide },
            head_step: wide,
            heads: 1,
            dim: wide,
            norm: Some(norm),
            turn,
            growth: None,
            to: HeadsTo::Store(to, 0),
        }
    }

    /// The rows of these heads in a unit that has `step` for each, from row `part` of the first on.
    fn rows(&self, unit: UnitId, step: usize, part: usize) -> RowSlice {
        let (start, end) = (self.start * step + part, (self.start + self.heads) * step);
        RowSlice { unit, rows: start as u64..end as u64 }
    }
}
