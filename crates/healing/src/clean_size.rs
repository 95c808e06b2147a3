//! Bytes that a clean build of an index would need, from the page layout of pgvector 0.8.
//!
//! Facts from pgvector's `src/ivfflat.h`, `src/ivfbuild.c`, `src/hnsw.h`, `src/hnswbuild.c`, `src/hnswutils.c`.

/// Bytes of a page (`BLCKSZ`).
pub const PAGE_BYTES: u64 = 8192;
/// Bytes of a page usable for line pointers and tuples: without the header (24) and the special space (8).
const PAGE_ROOM: u64 = PAGE_BYTES - 24 - 8;
/// Bytes of a line pointer.
const LINE_POINTER: u64 = 4;

const fn maxalign(bytes: u64) -> u64 {
    bytes.div_ceil(8) * 8
}

/// Bytes of a clean ivfflat build.
///
/// `tuple_bytes`: one index tuple, its 8-byte header included and before alignment (a `vector(d)`: 8 + 8 + 4 d, and
/// 3 bytes less where the value is below 127 bytes, since its header then takes 1 byte and not 4).
/// `centre_value_bytes`: one centre as stored (a `vector(d)`: 8 + 4 d). Pages of a list are whole: with rows spread
/// over the lists, half a page a list is empty on average.
pub fn ivfflat_bytes(rows: f64, tuple_bytes: f64, lists: u32, centre_value_bytes: u64) -> u64 {
    let lists = u64::from(lists.max(1));
    let rows = if rows.is_finite() && rows > 0.0 { rows } else { 0.0 };
    // A tuple never exceeds a page; a wrong figure must not divide by zero.
    let tuple = maxalign((tuple_bytes.max(16.0).ceil() as u64).min(PAGE_ROOM)) + LINE_POINTER;
    let per_page = (PAGE_ROOM / tuple).max(1) as f64;
    let list_rows = rows / lists as f64;
    // A list has a page even when it is empty.
    let list_pages = if lists == 1 {
        (list_rows / per_page).ceil().max(1.0)
    } else {
        (list_rows / per_page + 0.5).max(1.0)
    };
    // startPage and insertPage, 4 bytes each, stand before the centre.
    let centre = maxalign(8 + centre_value_bytes) + LINE_POINTER;
    let centre_pages = lists.div_ceil((PAGE_ROOM / centre).max(1));
    let data_pages = (list_pages * lists as f64).round() as u64;
    (1 + centre_pages + data_pages) * PAGE_BYTES
}

/// Live rows of a build of which bytes are remembered: with fewer, whole pages count for more than rows.
pub const BUILD_ROWS_MIN: f64 = 1000.0;

/// By how much a build may differ from the model and still be believed: rows with equal vectors share elements of an hnsw
/// graph, ten at most.
const BUILD_RATIO: (f64, f64) = (0.1, 1.5);

/// Bytes of a clean build now, from a build that was seen: what the model says, times what the build took against what the
/// model says of it. By bytes a row alone an index built on few rows would promise too much: a list has a page even when it
/// is empty.
pub fn after_build(model_now: u64, model_then: u64, built_bytes: u64) -> u64 {
    let ratio = built_bytes as f64 / model_then.max(1) as f64;
    (model_now as f64 * ratio.clamp(BUILD_RATIO.0, BUILD_RATIO.1)).round() as u64
}

/// Rows that are packed one by one; beyond them the pages grow in proportion.
const PACKED_ROWS_MAX: u32 = 4096;
/// Bytes of an hnsw element tuple before its vector: type, level, flags, ten heap TIDs, the neighbours' TID.
const ELEMENT_HEADER: u64 = 72;
/// Bytes of an hnsw neighbour tuple before its TIDs of 6 bytes each.
const NEIGHBOUR_HEADER: u64 = 4;
const TID: u64 = 6;

/// Bytes of a clean hnsw build.
///
/// `value_bytes`: one vector as stored (a `vector(d)`: 8 + 4 d). A row's level is at least l with probability m⁻ˡ; an
/// element and its neighbours share a page where they fit on one. Rows with equal vectors share elements (ten at
/// most): with many of them a clean build is smaller than this says.
pub fn hnsw_bytes(rows: f64, value_bytes: u64, m: u32) -> u64 {
    let m = m.clamp(2, 100);
    let rows = if rows.is_finite() && rows > 0.0 { rows.round() } else { 0.0 };
    let element = maxalign(ELEMENT_HEADER + value_bytes).min(PAGE_ROOM - LINE_POINTER);
    let level_max = ((PAGE_ROOM - NEIGHBOUR_HEADER - LINE_POINTER) / TID / u64::from(m) - 2).min(63);
    // At most PACKED_ROWS_MAX.
    let packed = rows.min(f64::from(PACKED_ROWS_MAX)) as u32;
    // The first page exists even without rows.
    let (mut pages, mut used) = (1u64, 0u64);
    let mut place = |together: u64, first: u64, second: u64| {
        let fits = |used: u64, bytes: u64| used + bytes <= PAGE_ROOM;
        if !fits(used, first) || together <= PAGE_ROOM && !fits(used, together) {
            (pages, used) = (pages + 1, 0);
        }
        used += first;
        if !fits(used, second) {
            (pages, used) = (pages + 1, 0);
        }
        used += second;
    };
    for row in 0..packed {
        // Levels spread evenly as their distribution says (golden ratio), rather than drawn.
        let u = (f64::from(row + 1) * 0.618_033_988_749_894_9).fract();
        // u is above 0, so this is a small number.
        let level = ((-u.ln() / f64::from(m).ln()) as u64).min(level_max);
        let neighbours = maxalign(NEIGHBOUR_HEADER + TID * (level + 2) * u64::from(m));
        let (first, second) = (element + LINE_POINTER, neighbours + LINE_POINTER);
        place(first + second, first, second);
    }
    let pages = if packed > 0 { (pages as f64 * rows / f64::from(packed)).ceil() as u64 } else { pages };
    (1 + pages) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_was_seen_corrects_the_model() {
        // Half of what the model said then: half of what it says now.
        assert_eq!(after_build(1_000_000, 400_000, 200_000), 500_000);
        // Equal vectors: a tenth at most; and what is half as large again was no clean build.
        assert_eq!(after_build(1_000_000, 400_000, 4_000), 100_000);
        assert_eq!(after_build(1_000_000, 400_000, 4_000_000), 1_500_000);
        assert_eq!(after_build(1_000, 0, 0), 100);
    }

    /// A `vector(384)` as stored.
    const VALUE: u64 = 8 + 4 * 384;

    #[test]
    fn ivfflat_by_hand() {
        // A tuple takes 1552 + 4 bytes, five a page; 120 rows a list are 24 pages and half a one; 100 centres of
        // 1552 + 4 bytes are 20 pages; one meta page: 1 + 20 + 2450.
        assert_eq!(ivfflat_bytes(12_000.0, 1552.0, 100, VALUE), 2471 * 8192);
        // One list: 2400 pages, 1 page of centres.
        assert_eq!(ivfflat_bytes(12_000.0, 1552.0, 1, VALUE), 2402 * 8192);
        // An empty index still has a page a list.
        assert_eq!(ivfflat_bytes(0.0, 1552.0, 10, VALUE), (1 + 2 + 10) * 8192);
    }

    #[test]
    fn hnsw_by_hand() {
        // An element takes 72 + 1544 = 1616, its neighbours at level 0 with m = 16 take 4 + 6 x 32 = 196, aligned 200;
        // with line pointers 1824: four a page, also when some are higher (96 bytes more a level).
        assert_eq!(hnsw_bytes(1000.0, VALUE, 16), (1 + 250) * 8192);
        assert_eq!(hnsw_bytes(12_000.0, VALUE, 16), (1 + 3000) * 8192);
        assert_eq!(hnsw_bytes(0.0, VALUE, 16), 2 * 8192);
        // 1536 dimensions: 72 + 6152 = 6224; one a page.
        assert_eq!(hnsw_bytes(100.0, 8 + 4 * 1536, 16), 101 * 8192);
        // 2000 dimensions and m = 100: 8080 and 1208 bytes never share a page, but a page holds six neighbour lists
        // only when no element comes between: two pages a row.
        assert_eq!(hnsw_bytes(100.0, 8 + 4 * 2000, 100), 201 * 8192);
    }

    /// Pages of real builds (PostgreSQL 18.6, pgvector 0.8.6, random rows): the model is within 11 %.
    #[test]
    fn measured_builds() {
        let near = |bytes: u64, pages: f64| {
            let ratio = (bytes / PAGE_BYTES) as f64 / pages;
            assert!((0.89..1.01).contains(&ratio), "{ratio}");
        };
        near(ivfflat_bytes(12_000.0, 1552.0, 100, VALUE), 2462.0);
        near(hnsw_bytes(12_000.0, VALUE, 16), 3001.0);
        // A `vector(8)` is 40 bytes; in an index tuple a value below 127 bytes has a header of 1 byte, not 4. With
        // fewer than two pages a list, uneven lists cost more than half a page each.
        near(ivfflat_bytes(20_000.0, 8.0 + 37.0, 100, 40), 201.0);
        near(hnsw_bytes(20_000.0, 40, 8), 575.0);
    }

    #[test]
    fn more_rows_never_take_fewer_bytes_and_odd_figures_do_no_harm() {
        let mut last = (0, 0);
        for rows in [0.0, 1.0, 4.0, 5.0, 100.0, 4095.0, 4096.0, 4097.0, 1e6, 1e9] {
            let now = (ivfflat_bytes(rows, 1552.0, 100, VALUE), hnsw_bytes(rows, VALUE, 16));
            assert!(now.0 >= last.0 && now.1 >= last.1, "{rows}");
            last = now;
        }
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(hnsw_bytes(odd, VALUE, 0), 2 * 8192);
            assert!(ivfflat_bytes(odd, odd, 0, VALUE) >= 3 * 8192);
        }
        assert!(hnsw_bytes(10.0, 1 << 40, 16) > 0);
    }
}
