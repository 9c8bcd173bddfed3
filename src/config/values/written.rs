//! Durations in the form of the configuration.

use std::fmt;
use std::time::Duration;

/// A duration as it can be written in a configuration: `3m`, `1h30m`, `250ms`.
pub(in crate::config) struct Written(pub(in crate::config) Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes) = (self.0.as_secs() / 3600, self.0.as_secs() / 60 % 60);
        let rest = Duration::new(self.0.as_secs() % 60, self.0.subsec_nanos());
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if self.0.is_zero() {
            f.write_str("0s")
        } else if rest.is_zero() {
            Ok(())
        } else {
            write!(f, "{rest:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::duration;
    use super::*;

    #[test]
    fn durations_are_shown_as_they_can_be_written() {
        for text in ["0s", "1ns", "250ms", "1.5s", "30s", "3m", "1m30s", "1h", "1h500ms", "26h3m4s"]
        {
            assert_eq!(Written(duration(text).unwrap()).to_string(), text);
        }
        assert_eq!(Written(duration("180s").unwrap()).to_string(), "3m");
    }
}
