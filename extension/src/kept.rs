//! Statements that this process runs again and again, planned once: what every sample asks is planned for longer than it
//! is executed (of a sample of eight partitions, two thirds of the time).
//!
//! A plan is generic: the same for every collection, and no first five custom ones. PostgreSQL makes it again when what it
//! depends on has changed (plancache.c), so that a dropped and re-created extension or an ANALYZE does no harm. Statements
//! whose text differs from call to call (names of users' tables) do not belong here: nothing is ever thrown away.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};

use pgrx::FromDatum;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use serde::Deserialize;

use crate::error::Error;

thread_local! {
    static PLANS: RefCell<HashMap<&'static str, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// Runs a query of one jsonb column and reads each row as a `T`. Takes no transaction id: a standby has none to give.
pub(crate) fn documents<T: for<'de> Deserialize<'de>>(
    query: &'static str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    run_with(query, arguments, Access::Reads, |document: Option<Document>| {
        if let Some(Document(text)) = document {
            found.push(serde_json::from_str(&text)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The first column of the first row; None where there is no row, or it is NULL. As [`documents`] takes no transaction id.
pub(crate) fn one<T: FromDatum>(
    query: &'static str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<T>, Error> {
    let mut first = None;
    run_with(query, arguments, Access::Reads, |value: Option<T>| {
        first.get_or_insert(value);
        Ok(())
    })?;
    Ok(first.flatten())
}

/// Runs a statement that changes something.
pub(crate) fn change(query: &'static str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    run_with(query, arguments, Access::Changes, |_: Option<bool>| Ok(()))
}

/// Runs a statement that changes something and returns one jsonb column of it, each row read as a `T`.
pub(crate) fn changed<T: for<'de> Deserialize<'de>>(
    query: &'static str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    run_with(query, arguments, Access::Changes, |document: Option<Document>| {
        if let Some(Document(text)) = document {
            found.push(serde_json::from_str(&text)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// A jsonb as text: parsed into what it is to be, without a tree of its own in between.
struct Document(String);

impl FromDatum for Document {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: a jsonb, of which its output function makes a C string in the present memory context.
        unsafe { pgrx::direct_function_call::<&std::ffi::CStr>(pg_sys::jsonb_out, &[Some(datum)]) }
            .map(|text| Document(text.to_string_lossy().into_owned()))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Access {
    Reads,
    Changes,
}

/// Runs a statement and gives each row's first column to `take`.
fn run_with<T: FromDatum>(
    query: &'static str,
    arguments: &[DatumWithOid<'_>],
    access: Access,
    mut take: impl FnMut(Option<T>) -> Result<(), Error>,
) -> Result<(), Error> {
    Spi::connect(|_| {
        let plan = plan(query, arguments)?;
        let mut values: Vec<pg_sys::Datum> = arguments
            .iter()
            .map(|argument| {
                argument.datum().map_or_else(|| pg_sys::Datum::from(0usize), |datum| datum.sans_lifetime())
            })
            .collect();
        let nulls: Vec<c_char> = arguments
            .iter()
            .map(|argument| if argument.datum().is_some() { b' ' } else { b'n' } as c_char)
            .collect();
        // SAFETY: connected to SPI; a kept plan, with as many values and marks as it has parameters (`plan` made it of the
        // same arguments; a text has the same number of them at each call). As in pgrx, a statement that reads sees what
        // the transaction's snapshot sees as long as nothing was changed in it.
        unsafe {
            let read_only = access == Access::Reads
                && pg_sys::GetCurrentTransactionIdIfAny() == pg_sys::InvalidTransactionId;
            pg_sys::SPI_tuptable = std::ptr::null_mut();
            Spi::check_status(pg_sys::SPI_execute_plan(
                plan,
                values.as_mut_ptr(),
                nulls.as_ptr(),
                read_only,
                0,
            ))?;
            let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return Ok(()) };
            for row in 0..table.numvals as usize {
                let mut is_null = false;
                let value = pg_sys::SPI_getbinval(*table.vals.add(row), table.tupdesc, 1, &mut is_null);
                take(T::from_datum(value, is_null))?;
            }
        }
        Ok(())
    })
}

/// The kept plan of a statement, made at its first use. No borrow is held across a call that can raise.
fn plan(query: &'static str, arguments: &[DatumWithOid<'_>]) -> Result<pg_sys::SPIPlanPtr, Error> {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(query).copied()) {
        return Ok(plan);
    }
    let text = CString::new(query).map_err(|error| Error::refused(error.to_string()))?;
    let mut types: Vec<pg_sys::Oid> = arguments.iter().map(DatumWithOid::oid).collect();
    // SAFETY: connected to SPI; a text and as many types as it has parameters. The kept plan lives as long as the process.
    let plan = unsafe {
        let plan = pg_sys::SPI_prepare_cursor(
            text.as_ptr(),
            types.len() as i32,
            types.as_mut_ptr(),
            pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
        );
        if plan.is_null() {
            return Err(match Spi::check_status(pg_sys::SPI_result) {
                Err(error) => error.into(),
                Ok(_) => Error::refused("a statement could not be prepared"),
            });
        }
        if pg_sys::SPI_keepplan(plan) != 0 {
            return Err(Error::refused("a prepared statement could not be kept"));
        }
        plan
    };
    PLANS.with_borrow_mut(|plans| plans.insert(query, plan));
    Ok(plan)
}
