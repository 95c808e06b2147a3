//! A bucket queue for keys that only grow while their node waits.

/// Stacks of nodes by key, emptied lazily: a node whose key has grown is pushed again, and its older entries are
/// skipped when they surface. Entries live in one pool, so that nothing is allocated in the middle of a scan, and a
/// three-level bitmap finds the highest key that is in use.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    heads: Vec<u32>,
    /// Node and next entry.
    pool: Vec<(u32, u32)>,
    /// First entry of the list of free ones.
    free: u32,
    low: Vec<u64>,
    middle: Vec<u64>,
    high: u64,
}

const NONE: u32 = u32::MAX;

/// Keys are below 2^18: three levels of 64.
pub(crate) const KEY_BITS_MAX: u32 = 18;

impl Buckets {
    /// Empties the queue and makes room for keys below `keys`.
    pub(crate) fn reset(&mut self, keys: u32) {
        debug_assert!(keys <= 1 << KEY_BITS_MAX);
        let keys = keys as usize;
        self.heads.clear();
        self.heads.resize(keys, NONE);
        self.low.clear();
        self.low.resize(keys.div_ceil(64), 0);
        self.middle.clear();
        self.middle.resize(keys.div_ceil(64 * 64), 0);
        self.high = 0;
        self.pool.clear();
        self.free = NONE;
    }

    /// Entries in the pool, used and free.
    pub(crate) fn pool_len(&self) -> usize {
        self.pool.len()
    }

    #[inline]
    pub(crate) fn push(&mut self, node: u32, key: u32) {
        let next = self.heads[key as usize];
        let entry = self.free;
        if entry == NONE {
            self.heads[key as usize] = self.pool.len() as u32;
            self.pool.push((node, next));
        } else {
            self.free = self.pool[entry as usize].1;
            self.pool[entry as usize] = (node, next);
            self.heads[key as usize] = entry;
        }
        if next == NONE {
            self.low[key as usize >> 6] |= 1 << (key & 63);
            self.middle[key as usize >> 12] |= 1 << ((key >> 6) & 63);
            self.high |= 1 << (key >> 12);
        }
    }

    /// Takes the newest entry of the highest key: node and the key it was pushed with.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(u32, u32)> {
        if self.high == 0 {
            return None;
        }
        let top = 63 - self.high.leading_zeros();
        let middle = (top << 6) + 63 - self.middle[top as usize].leading_zeros();
        let key = (middle << 6) + 63 - self.low[middle as usize].leading_zeros();
        let entry = self.heads[key as usize];
        let (node, next) = self.pool[entry as usize];
        self.pool[entry as usize].1 = self.free;
        self.free = entry;
        self.heads[key as usize] = next;
        if next == NONE {
            self.low[middle as usize] &= !(1 << (key & 63));
            if self.low[middle as usize] == 0 {
                self.middle[top as usize] &= !(1 << (middle & 63));
                if self.middle[top as usize] == 0 {
                    self.high &= !(1 << top);
                }
            }
        }
        Some((node, key))
    }

    /// Takes the newest node of the highest key, of those whose key has not grown since.
    #[inline]
    pub(crate) fn pop_valid(&mut self, keys: &[u32]) -> Option<u32> {
        while let Some((node, key)) = self.pop() {
            if keys[node as usize] == key {
                return Some(node);
            }
        }
        None
    }

    /// Drops stale entries: those left are of nodes with a key above 0 and below `threshold`.
    #[cold]
    pub(crate) fn refill(&mut self, threshold: u32, keys: &[u32]) {
        self.reset(threshold);
        for (node, &key) in keys.iter().enumerate() {
            if key != 0 && key < threshold {
                self.push(node as u32, key);
            }
        }
    }
}

#[cfg(test)]
impl Buckets {
    pub(crate) fn was_used(&self) -> bool {
        !self.heads.is_empty()
    }
}
