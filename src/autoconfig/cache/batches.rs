//! Cuts a list of swaps into calls that fit a database's limits: pure.

use super::backend::{Swap, Swapped};

/// How much one call may carry. A swap that exceeds `bytes` on its own gets a call of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of swaps.
    pub(super) count: usize,
    /// Bytes as measured by the database's own rule.
    pub(super) bytes: usize,
}

/// Swaps of one call, with their places in the whole list.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    places: Vec<usize>,
    pub(super) swaps: Vec<&'a Swap>,
    bytes: usize,
}

impl Batch<'_> {
    /// Writes the outcomes of this call to their places.
    pub(super) fn record(&self, outcomes: &mut [Swapped], done: Vec<Swapped>) {
        for (place, outcome) in self.places.iter().zip(done) {
            outcomes[*place] = outcome;
        }
    }
}

/// Groups swaps in their order. `measure` gives the size of one, `None` if it is too large for
/// the database; those are in no batch.
pub(super) fn batches(
    swaps: &[Swap],
    limits: Limits,
    measure: impl Fn(&Swap) -> Option<usize>,
) -> Vec<Batch<'_>> {
    let mut batches: Vec<Batch<'_>> = Vec::new();
    for (place, swap) in swaps.iter().enumerate() {
        let Some(bytes) = measure(swap) else { continue };
        let fits = |batch: &&mut Batch<'_>| {
            batch.swaps.len() < limits.count && batch.bytes + bytes <= limits.bytes
        };
        match batches.last_mut().filter(fits) {
            Some(batch) => {
                batch.places.push(place);
                batch.swaps.push(swap);
                batch.bytes += bytes;
            }
            None => batches.push(Batch { places: vec![place], swaps: vec![swap], bytes }),
        }
    }
    batches
}

/// The bytes of a swap's name and values.
#[cfg(any(feature = "redis", feature = "dynamodb", test))]
pub(super) fn content_bytes(swap: &Swap) -> usize {
    let expected = swap.expected.as_ref().map_or(0, |row| row.value.len());
    swap.name.len() + expected + swap.value.as_ref().map_or(0, bytes::Bytes::len)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Sizes in; the sizes of each batch out. Sizes over 100 are too large.
    #[track_caller]
    fn check(sizes: &[usize], expected: &[&[usize]]) {
        let swaps: Vec<Swap> = sizes
            .iter()
            .map(|size| Swap {
                name: String::new(),
                expected: None,
                value: Some(Bytes::from(vec![0; *size])),
            })
            .collect();
        let limits = Limits { count: 3, bytes: 10 };
        let measure = |swap: &Swap| Some(content_bytes(swap)).filter(|bytes| *bytes <= 100);
        let batches = batches(&swaps, limits, measure);
        let seen: Vec<Vec<usize>> = batches
            .iter()
            .map(|batch| batch.swaps.iter().map(|swap| content_bytes(swap)).collect())
            .collect();
        assert_eq!(seen, expected);
        let mut outcomes = vec![Swapped::TooLarge; swaps.len()];
        for batch in &batches {
            batch.record(&mut outcomes, vec![Swapped::Applied; batch.swaps.len()]);
        }
        for (outcome, size) in outcomes.iter().zip(sizes) {
            assert_eq!(*outcome == Swapped::Applied, *size <= 100);
        }
    }

    #[test]
    fn batches_keep_order_and_limits() {
        check(&[], &[]);
        check(&[1, 2, 3, 4], &[&[1, 2, 3], &[4]]);
        check(&[6, 4, 1], &[&[6, 4], &[1]]);
        check(&[6, 5], &[&[6], &[5]]);
        check(&[50, 1], &[&[50], &[1]]);
        check(&[1, 101, 2], &[&[1, 2]]);
    }
}
