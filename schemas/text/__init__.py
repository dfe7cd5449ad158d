"""Values as text, for people and for programs, without the credentials that an address may hold."""
