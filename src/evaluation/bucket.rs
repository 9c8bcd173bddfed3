//! Places individuals in rollouts: a hash decides, so that every SDK and relay decides alike.

use std::io::Write;

use sha1::{Digest, Sha1};

use super::context::{Attribute, Context};
use super::evaluator::Malformed;
use super::reference::Reference;

/// What decides the place of an individual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placing<'a> {
    /// Key and salt of the flag or segment, if no seed replaces them.
    pub key: &'a str,
    pub salt: &'a str,
    pub seed: Option<i64>,
    /// The individual that is placed.
    pub context_kind: &'a str,
    /// The attribute that is hashed; the key if none is given, and always in experiments.
    pub bucket_by: &'a Reference,
    pub is_experiment: bool,
}

/// A place from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// Individuals whose attribute cannot be hashed are at 0.
    At(f32),
    /// The context has no individual of the kind.
    NoIndividual,
}

impl Placing<'_> {
    /// The place of the context's individual.
    pub fn place(&self, context: &Context) -> Result<Place, Malformed> {
        let by = if self.is_experiment { &Reference::Undefined } else { self.bucket_by };
        if *by == Reference::Invalid {
            return Err(Malformed);
        }
        let Some(individual) = context.individual(self.context_kind) else {
            return Ok(Place::NoIndividual);
        };
        let value = match by {
            Reference::Undefined => Some(Attribute::Text(&individual.key)),
            Reference::Kind | Reference::Path(_) | Reference::Invalid => individual.value(by),
        };
        let mut hash = Sha1::new();
        match self.seed {
            Some(seed) => write_number(&mut hash, seed),
            None => {
                hash.update(self.key);
                hash.update(".");
                hash.update(self.salt);
            }
        }
        hash.update(".");
        match value {
            Some(Attribute::Text(text)) => hash.update(text),
            Some(Attribute::Number(number)) => {
                let Some(whole) = number.as_f64().and_then(whole) else {
                    return Ok(Place::At(0.0));
                };
                write_number(&mut hash, whole);
            }
            Some(Attribute::Flag(_) | Attribute::List(_) | Attribute::Object(_)) | None => {
                return Ok(Place::At(0.0));
            }
        }
        if let Some(secondary) = individual.secondary.as_ref().filter(|_| !self.is_experiment) {
            hash.update(".");
            hash.update(&**secondary);
        }
        Ok(Place::At(fraction(&hash.finalize())))
    }
}

/// The first 60 bits as a fraction of the largest such number, in the precision that SDKs use.
#[expect(clippy::cast_precision_loss, reason = "as in all SDKs")]
fn fraction(hash: &[u8]) -> f32 {
    const LARGEST: f32 = 0xFFF_FFFF_FFFF_FFFF_u64 as f32;
    let first: u64 = hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    (first >> 4) as f32 / LARGEST
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "compares the result with the original"
)]
fn whole(number: f64) -> Option<i64> {
    let whole = number as i64;
    (whole as f64 == number).then_some(whole)
}

fn write_number(hash: &mut Sha1, number: i64) {
    let mut digits = [0_u8; 20];
    let mut rest = &mut digits[..];
    // 20 bytes hold every number of 64 bits.
    let _ = write!(rest, "{number}");
    let unused = rest.len();
    hash.update(&digits[..digits.len() - unused]);
}
