//! Cuts a list into calls that fit a database's limits: pure.

/// How much one call may carry. What exceeds `bytes` on its own gets a call of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of entries.
    pub(super) count: usize,
    /// Bytes as measured by the database's own rule.
    pub(super) bytes: usize,
}

/// The places of the entries in each call, in their order. `None` as a size leaves an entry out.
pub(super) fn batches(
    sizes: impl IntoIterator<Item = Option<usize>>,
    limits: Limits,
) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut carried = 0;
    for (place, size) in sizes.into_iter().enumerate() {
        let Some(bytes) = size else { continue };
        match batches.last_mut() {
            Some(last) if last.len() < limits.count && carried + bytes <= limits.bytes => {
                last.push(place);
                carried += bytes;
            }
            Some(_) | None => {
                batches.push(vec![place]);
                carried = bytes;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes in, 0 for what is left out; the places of each batch out.
    #[track_caller]
    fn check(sizes: &[usize], expected: &[&[usize]]) {
        let sizes = sizes.iter().map(|size| Some(*size).filter(|size| *size > 0));
        assert_eq!(batches(sizes, Limits { count: 3, bytes: 10 }), expected);
    }

    #[test]
    fn batches_keep_order_and_limits() {
        check(&[], &[]);
        check(&[1, 2, 3, 4], &[&[0, 1, 2], &[3]]);
        check(&[6, 4, 1], &[&[0, 1], &[2]]);
        check(&[6, 5], &[&[0], &[1]]);
        check(&[50, 1], &[&[0], &[1]]);
        check(&[1, 0, 2, 0], &[&[0, 2]]);
        check(&[0, 0], &[]);
    }
}
