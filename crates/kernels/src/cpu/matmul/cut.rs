//! How a list of jobs is cut into numbered tasks.

use std::ops::Range;

/// The cuts of all jobs; tasks are numbered through.
pub(super) struct Cuts(Vec<Cut>);

/// One job's lines (rows, or numbers of a row) and columns, cut into pieces of `task_lines` and `task_columns`.
pub(super) struct Cut {
    pub(super) lines: usize,
    pub(super) columns: usize,
    pub(super) task_lines: usize,
    pub(super) task_columns: usize,
    /// Tasks of the jobs up to this one, itself included.
    end: usize,
}

impl Cut {
    pub(super) fn new(lines: usize, columns: usize, task_lines: usize, task_columns: usize) -> Self {
        Self { lines, columns, task_lines: task_lines.max(1), task_columns: task_columns.max(1), end: 0 }
    }
}

impl Cuts {
    pub(super) fn new(cuts: impl Iterator<Item = Cut>) -> Self {
        let mut end = 0;
        let number = |mut cut: Cut| {
            end += cut.lines.div_ceil(cut.task_lines) * cut.columns.div_ceil(cut.task_columns);
            cut.end = end;
            cut
        };
        Self(cuts.map(number).collect())
    }

    /// How many tasks there are.
    pub(super) fn tasks(&self) -> usize {
        self.0.last().map_or(0, |cut| cut.end)
    }

    /// Job, lines and columns of a task. A job's tasks with the same columns are neighbours.
    pub(super) fn task(&self, number: usize) -> (usize, Range<usize>, Range<usize>) {
        let job = self.0.partition_point(|cut| cut.end <= number);
        let Cut { lines, columns, task_lines, task_columns, end } = self.0[job];
        let pieces = lines.div_ceil(task_lines);
        let number = number - (end - pieces * columns.div_ceil(task_columns));
        let (line, column) = (number % pieces * task_lines, number / pieces * task_columns);
        (job, line..lines.min(line + task_lines), column..columns.min(column + task_columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_of_each_job_belongs_to_one_task() {
        let shapes = [(7, 3, 4, 2), (0, 5, 4, 4), (4, 0, 1, 1), (1, 1, 9, 9), (12, 9, 4, 3), (3, 1, 0, 0)];
        let cuts = Cuts::new(shapes.iter().map(|&(lines, columns, a, b)| Cut::new(lines, columns, a, b)));
        let mut seen: Vec<Vec<u32>> = shapes.iter().map(|shape| vec![0; shape.0 * shape.1]).collect();
        for number in 0..cuts.tasks() {
            let (job, lines, columns) = cuts.task(number);
            assert!(!lines.is_empty() && !columns.is_empty());
            for (line, column) in lines.flat_map(|line| columns.clone().map(move |column| (line, column))) {
                seen[job][line * shapes[job].1 + column] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|count| *count == 1), "{seen:?}");
        assert_eq!(Cuts::new(std::iter::empty()).tasks(), 0);
    }
}
