//! `from_url!`: conversions of a URL into the settings of a server.

/// Lets builders take a URL where they take these settings.
macro_rules! from_url {
    ($settings:ty) => {
        impl TryFrom<&str> for $settings {
            type Error = crate::base::error::Error;

            fn try_from(url: &str) -> Result<Self, Self::Error> {
                Self::new(url)
            }
        }

        impl TryFrom<String> for $settings {
            type Error = crate::base::error::Error;

            fn try_from(url: String) -> Result<Self, Self::Error> {
                Self::new(&url)
            }
        }
    };
}

pub(super) use from_url;
