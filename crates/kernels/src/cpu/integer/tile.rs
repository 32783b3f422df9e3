//! Unpacked panels times quantized columns, as many sums at once as fit the registers.

use super::activations::{RUN, Run};
use super::blocks::{Dots, Form};
use super::panel::Unpacked;
use super::wide::{Column, DOTS_FROM, Quad, ROWS, SHIFT, Wide};

/// Columns that are multiplied at once where they are many.
pub(super) const MANY: usize = 6;

/// The sums of one column with a panel's rows.
pub(super) type Sums = Column;

/// `sums[c][p] += panel p · run c`, for the groups that the panels hold.
///
/// Each output's order: first over groups `sum = sum − minimum · (scale of the column · sum of codes)`, then over groups
/// `sum = (idot · scale) · scale of the column + sum`, the integers exact. (Minima first, since they wait for no dot product.)
#[inline(always)]
pub(super) fn multiply<W: Wide, const P: usize>(
    w: W,
    form: Form,
    groups: usize,
    panels: &[Unpacked; P],
    runs: &[&Run],
    sums: &mut [[Sums; P]],
) {
    if !W::PAIRS {
        return match (form.group, form.minima) {
            (32, false) => Tile::<8, false, 8> { zero: form.zero, groups }.all(w, panels, runs, sums),
            (32, true) => Tile::<8, true, 8> { zero: 0, groups }.all(w, panels, runs, sums),
            (_, false) => Tile::<4, false, 4> { zero: form.zero, groups }.all(w, panels, runs, sums),
            (_, true) => Tile::<4, true, 4> { zero: 0, groups }.all(w, panels, runs, sums),
        };
    }
    match (form.group, form.minima, form.pairs()) {
        (32, false, 8..) => Tile::<8, false, 8> { zero: form.zero, groups }.all(w, panels, runs, sums),
        (32, false, 4..) => Tile::<8, false, 4> { zero: form.zero, groups }.all(w, panels, runs, sums),
        (32, false, 1..) => Tile::<8, false, 1> { zero: form.zero, groups }.all(w, panels, runs, sums),
        (32, false, _) => Tile::<8, false, FULL> { zero: 0, groups }.all(w, panels, runs, sums),
        (32, true, 8..) => Tile::<8, true, 8> { zero: 0, groups }.all(w, panels, runs, sums),
        (32, true, _) => Tile::<8, true, 4> { zero: 0, groups }.all(w, panels, runs, sums),
        (_, false, 4..) => Tile::<4, false, 4> { zero: form.zero, groups }.all(w, panels, runs, sums),
        (_, false, 2..) => Tile::<4, false, 2> { zero: form.zero, groups }.all(w, panels, runs, sums),
        (_, false, _) => Tile::<4, false, 1> { zero: form.zero, groups }.all(w, panels, runs, sums),
        (_, true, _) => Tile::<4, true, 4> { zero: 0, groups }.all(w, panels, runs, sums),
    }
}

/// The same for one panel and one run, of whose groups the dot products are known, which began at [`starts`].
#[inline(always)]
pub(super) fn add_dots<W: Wide>(w: W, form: Form, panel: &Unpacked, dots: &Dots, run: &Run, sums: &mut Sums) {
    let mut part = w.load_floats(sums);
    let groups = RUN / form.group;
    if form.minima {
        let minus: &[f32] = if form.group == 32 { &run.wide_minus } else { &run.minus };
        for (minimum, minus) in panel.minima.iter().zip(&minus[..groups]) {
            part = w.mul_add(w.load_floats(minimum), w.each_float(*minus), part);
        }
    }
    for (group, (dots, scale)) in dots.iter().zip(&panel.scales).take(groups).enumerate() {
        let scale = w.load_floats(scale);
        let product = w.scaled(w.load(dots), scale, w.mul(scale, w.each_float(-SHIFT)));
        part = w.mul_add(product, w.each_float(run.scales[group * form.group / 32]), part);
    }
    w.store_floats(part, sums);
}

/// What the dot products of groups of `group` numbers start from: zero's code times the sum of a group's codes is too much.
#[inline(always)]
pub(super) fn starts<W: Wide>(w: W, group: usize, zero: u8, run: &Run) -> Quad {
    let mut starts = Quad([[0; 4]; ROWS]);
    w.store(w.starts(if group == 32 { &run.wide_sums } else { &run.sums }, -i32::from(zero)), &mut starts);
    starts
}

/// Steps of a tile whose codes are any bytes, signed.
const FULL: usize = 0;

/// Products over groups of `4 · QUADS` numbers, of which those of `STEP` quads at a time are added up as the instructions like it.
#[derive(Clone, Copy)]
struct Tile<const QUADS: usize, const MINIMA: bool, const STEP: usize> {
    zero: u8,
    groups: usize,
}

impl<const QUADS: usize, const MINIMA: bool, const STEP: usize> Tile<QUADS, MINIMA, STEP> {
    /// All columns, some at a time.
    #[inline(always)]
    fn all<W: Wide, const P: usize>(self, w: W, panels: &[Unpacked; P], runs: &[&Run], sums: &mut [[Sums; P]]) {
        let (mut runs, mut sums) = (runs, sums);
        while !runs.is_empty() {
            // As many sums side by side as hide the latency of the instructions, and no more than there are registers.
            let count = if W::REGISTERS == 0 {
                self.some::<W, P, 1, 1>(w, panels, runs, sums)
            } else if P > 1 {
                match runs.len() {
                    MANY.. if W::REGISTERS == 32 => self.some::<W, P, MANY, 1>(w, panels, runs, sums),
                    4.. if W::REGISTERS == 32 => self.some::<W, P, 4, 1>(w, panels, runs, sums),
                    2.. => self.some::<W, P, 2, 1>(w, panels, runs, sums),
                    _ => self.some::<W, P, 1, 2>(w, panels, runs, sums),
                }
            } else {
                match runs.len() {
                    4.. if W::REGISTERS == 32 => self.some::<W, P, 4, 2>(w, panels, runs, sums),
                    4.. => self.some::<W, P, 4, 1>(w, panels, runs, sums),
                    2.. if W::PAIRS => self.some::<W, P, 2, 2>(w, panels, runs, sums),
                    2.. => self.some::<W, P, 2, 4>(w, panels, runs, sums),
                    _ if W::PAIRS => self.some::<W, P, 1, 2>(w, panels, runs, sums),
                    _ => self.some::<W, P, 1, 8>(w, panels, runs, sums),
                }
            };
            (runs, sums) = (&runs[count..], &mut sums[count..]);
        }
    }

    /// `C` columns, `G` groups side by side. Returns `C`.
    #[inline(always)]
    fn some<W: Wide, const P: usize, const C: usize, const G: usize>(
        self,
        w: W,
        panels: &[Unpacked; P],
        runs: &[&Run],
        sums: &mut [[Sums; P]],
    ) -> usize {
        let runs: [&Run; C] = *runs.first_chunk().expect("as many runs");
        let sums: &mut [[Sums; P]; C] = sums.first_chunk_mut().expect("as many sums");
        let mut parts = [[w.each_float(0.0); P]; C];
        for (parts, sums) in parts.iter_mut().zip(&*sums) {
            for (part, sum) in parts.iter_mut().zip(sums) {
                *part = w.load_floats(sum);
            }
        }
        let mut starts = [Quad([[0; 4]; ROWS]); C];
        for ((starts, parts), run) in starts.iter_mut().zip(&mut parts).zip(runs) {
            if MINIMA {
                let minus: &[f32] = if QUADS == 8 { &run.wide_minus } else { &run.minus };
                for (group, minus) in minus[..self.groups].iter().enumerate() {
                    for (part, panel) in parts.iter_mut().zip(panels) {
                        let minimum = w.load_floats(&panel.minima[group]);
                        *part = w.mul_add(minimum, w.each_float(*minus), *part);
                    }
                }
            } else {
                *starts = self::starts(w, 4 * QUADS, self.zero, run);
            }
        }
        let mut group = 0;
        while group + G <= self.groups {
            if W::PAIRS {
                // A compiler that knows of eight groups at most writes them all out: then registers are spilled all the time.
                group = std::hint::black_box(group);
            }
            Self::add_groups::<W, P, C, G>(w, panels, runs, &starts, group, &mut parts);
            group += G;
        }
        while group < self.groups {
            Self::add_groups::<W, P, C, 1>(w, panels, runs, &starts, group, &mut parts);
            group += 1;
        }
        for (sums, parts) in sums.iter_mut().zip(parts) {
            for (sum, part) in sums.iter_mut().zip(parts) {
                w.store_floats(part, sum);
            }
        }
        C
    }

    /// `G` groups from `first` on.
    #[inline(always)]
    fn add_groups<W: Wide, const P: usize, const C: usize, const G: usize>(
        w: W,
        panels: &[Unpacked; P],
        runs: [&Run; C],
        starts: &[Quad; C],
        first: usize,
        parts: &mut [[W::F; P]; C],
    ) {
        let mut dots = [[[w.each(DOTS_FROM); P]; C]; G];
        if !MINIMA {
            for (g, dots) in dots.iter_mut().enumerate() {
                for (dots, starts) in dots.iter_mut().zip(starts) {
                    *dots = [w.each(i32::from_le_bytes(starts.0[(first + g) % ROWS])); P];
                }
            }
        }
        let codes: [&[Quad]; P] = std::array::from_fn(|p| &panels[p].codes[first * QUADS..(first + G) * QUADS]);
        let x: [&[[i8; 4]]; C] = std::array::from_fn(|c| &runs[c].codes[first * QUADS..(first + G) * QUADS]);
        let at_once = STEP.max(1);
        for step in 0..QUADS / at_once {
            let mut parts = dots;
            for part in parts.as_flattened_mut().as_flattened_mut() {
                *part = if STEP == FULL { *part } else { w.begin(*part) };
            }
            for quad in step * at_once..(step + 1) * at_once {
                for (g, parts) in parts.iter_mut().enumerate() {
                    let a: [W::V; P] = std::array::from_fn(|p| w.load(&codes[p][g * QUADS + quad]));
                    for (parts, x) in parts.iter_mut().zip(x) {
                        let x = w.each(i32::from_le_bytes(x[g * QUADS + quad].map(|x| x as u8)));
                        for (part, a) in parts.iter_mut().zip(a) {
                            *part = if STEP == FULL { w.dot_full(*part, a, x) } else { w.dot(*part, a, x) };
                        }
                    }
                }
            }
            let parts = parts.as_flattened().as_flattened();
            for (dots, part) in dots.as_flattened_mut().as_flattened_mut().iter_mut().zip(parts) {
                *dots = if STEP == FULL { *part } else { w.end(*dots, *part) };
            }
        }
        for (g, dots) in dots.iter().enumerate() {
            let group = (first + g) % ROWS;
            for (p, panel) in panels.iter().enumerate() {
                let scale = w.load_floats(&panel.scales[group]);
                let shift = w.mul(scale, w.each_float(-SHIFT));
                for ((dots, parts), run) in dots.iter().zip(parts.iter_mut()).zip(runs) {
                    let product = w.scaled(dots[p], scale, shift);
                    parts[p] = w.mul_add(product, w.each_float(run.scales[group * QUADS / 8]), parts[p]);
                }
            }
        }
    }
}

const _: () = assert!(RUN / 16 == ROWS, "a group of sixteen numbers for each lane of sums");

#[cfg(test)]
mod tests {
    use plan::QuantType;

    use super::super::activations::Activations;
    use super::super::blocks::form;
    use super::*;
    use crate::cpu::Pool;
    use crate::cpu::isa::{Isa, WideKernel};

    struct Products<'a> {
        form: Form,
        panel: &'a [Unpacked; 1],
        runs: &'a [&'a Run],
        sums: &'a mut [[Sums; 1]],
    }

    impl WideKernel for Products<'_> {
        type Output = ();

        #[inline(always)]
        fn run<W: Wide>(self, w: W) {
            multiply(w, self.form, RUN / self.form.group, self.panel, self.runs, self.sums);
        }
    }

    #[test]
    fn no_sum_of_the_largest_products_overflows() {
        let pool = Pool::new(1, Isa::PORTABLE).expect("a pool");
        // All of one sign, half of each, and signs that change within pairs.
        let signs: [fn(usize) -> bool; 4] = [|_| false, |_| true, |i| i % 32 < 16, |i| i % 2 == 0];
        let x: Vec<f32> =
            signs.iter().flat_map(|minus| (0..RUN).map(|i| if minus(i) { -127.0 } else { 127.0 })).collect();
        let mut activations = Activations::default();
        activations.quantize(&pool, &x, RUN);
        let runs: Vec<&Run> = activations.block(0).iter().collect();
        for form in QuantType::ALL.iter().filter_map(|quant| form(*quant)) {
            for (code, isa) in [0, form.largest].into_iter().flat_map(|code| Isa::all().map(move |isa| (code, isa))) {
                let value = i16::from(code) - i16::from(form.zero);
                let byte = if isa.name() == "avx2" && form.pairs() == 0 { value as u8 } else { code };
                let mut panel = [Unpacked::ZERO];
                panel[0].codes = [Quad([[byte; 4]; ROWS]); RUN / 4];
                panel[0].scales = [Column([1.0; ROWS]); ROWS];
                let mut sums = vec![[Column([0.0; ROWS])]; runs.len()];
                isa.run_wide(Products { form, panel: &panel, runs: &runs, sums: &mut sums });
                for ([sums], x) in sums.iter().zip(x.chunks(RUN)) {
                    let wanted = f32::from(value) * x.iter().sum::<f32>();
                    assert_eq!(sums.0, [wanted; ROWS], "{form:?}, code {code}, {}", isa.name());
                }
            }
        }
    }
}
