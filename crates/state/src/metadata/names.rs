//! What a topic may be called.
//!
//! Names become directories and metric names, so only some characters are allowed, and two names that differ in '.' and
//! '_' alone are taken for one: metrics cannot tell them apart.

use wire::Str;

use super::refusal::NameError;

/// Length of a topic's name; a directory name has room for this and the partition's number.
const NAME_LENGTH_MAX: usize = 249;

/// Checks a topic's name.
pub fn check_topic_name(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots(name.to_owned())),
        _ if name.len() > NAME_LENGTH_MAX => {
            Err(NameError::TooLong { length: name.len(), max: NAME_LENGTH_MAX })
        }
        _ if !name.bytes().all(allowed) => Err(NameError::Characters(name.to_owned())),
        _ => Ok(()),
    }
}

/// The name under which a topic collides with others; `None` when it has neither '.' nor '_'.
pub(super) fn collision_key(name: &str) -> Option<Str> {
    name.contains(['.', '_']).then(|| Str::from(name.replace('.', "_")))
}
