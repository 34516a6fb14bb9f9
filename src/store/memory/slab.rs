//! [`Slab`]: values at stable indices in one allocation.

/// Values by index; freed indices are reused.
#[derive(Debug)]
pub(super) struct Slab<T> {
    values: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    #[inline]
    pub(super) fn at(&mut self, index: u64) -> &mut T {
        &mut self.values[index as usize]
    }

    /// Stores a value and returns its index. Capacity grows to at most `capacity` values.
    pub(super) fn put(&mut self, value: T, capacity: usize) -> u64 {
        if let Some(index) = self.free.pop() {
            self.values[index as usize] = value;
            return u64::from(index);
        }
        let len = self.values.len();
        if len == self.values.capacity() {
            self.values.reserve_exact((len / 2).max(4).min(capacity.saturating_sub(len)).max(1));
        }
        self.values.push(value);
        len as u64
    }

    /// Frees an index.
    pub(super) fn take(&mut self, index: u64) -> T {
        self.free.push(index as u32);
        std::mem::take(self.at(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_indices_are_reused_within_the_capacity() {
        let mut slab = Slab::default();
        let places: Vec<u64> = (0..10).map(|n| slab.put(n, 10)).collect();
        assert_eq!(slab.values.capacity(), 10);
        assert_eq!(slab.take(places[3]), 3);
        assert_eq!(slab.put(33, 10), places[3]);
        assert_eq!((*slab.at(places[3]), *slab.at(places[9])), (33, 9));
        assert_eq!(slab.values.len(), 10);
    }
}
