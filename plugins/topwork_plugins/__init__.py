"""The plugins that come with topwork; found through entry points like anybody's."""
