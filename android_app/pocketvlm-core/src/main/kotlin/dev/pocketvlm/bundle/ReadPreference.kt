package dev.pocketvlm.bundle

private val CHIP = Regex("[A-Z0-9][A-Z0-9_-]{0,63}")
private val COMPONENT = Regex("[a-z][a-z0-9_-]{0,63}")
private val LIBRARY = Regex("[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
private val PLACE = Regex("/(vendor|system|system_ext|odm|product|apex)(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
private const val MAX_PLACE = 255

/** A version as a manifest asks for it. */
internal val VERSION_PATTERN = Regex("[0-9]{1,6}(\\.[0-9]{1,6}){0,3}")

/** The section `preference` of a manifest: its engines, best first. */
internal fun readPreference(value: Reader): List<PreferredEngine> = value.list(0, 16) { one ->
    val of = one.members("engine", "abis", "chips", "libraries", "versions")
    PreferredEngine(
        engine = of["engine"].choice(*ENGINES),
        abis = of.optional("abis")?.list(0, 4) { it.choice("arm64-v8a", "armeabi-v7a", "x86_64", "x86") }.orEmpty(),
        chips = of.optional("chips")?.list(0, 64) { it.ofForm(CHIP) }.orEmpty(),
        libraries = of.optional("libraries")?.list(0, 8, ::library).orEmpty(),
        versions = of.optional("versions")?.let(::versions).orEmpty(),
    )
}

private fun library(value: Reader): DriverLibrary {
    val of = value.members("names", "places")
    return DriverLibrary(of["names"].list(1, 8) { it.ofForm(LIBRARY) }, of["places"].list(1, 16) { it.ofForm(PLACE) })
}

private fun versions(value: Reader): Map<String, String> {
    val read = value.entries { name, version ->
        if (!COMPONENT.matches(name)) version.refuse("its name is none of a component")
        version.ofForm(VERSION_PATTERN)
    }
    if (read.size > 8) value.refuse("it has more than 8 entries")
    return read
}

private fun Reader.ofForm(form: Regex): String {
    val text = text(MAX_PLACE) // before a pattern that repeats sees it
    if (!form.matches(text)) refuse("it has not the form of one")
    return text
}
