package dev.pocketvlm.bundle

private const val MAX_SIZE = 1L shl 40
private const val MAX_NAME = 512
private const val MAX_LITERAL = 1 shl 16
private const val MAX_IDS = 256
private val SHA256 = Regex("[0-9a-f]{64}")

/** A size: from 1 to 2**40. */
internal fun Reader.positive(): Long = long(1, MAX_SIZE)

/** What models, tensors, recipes and versions are called. */
internal fun Reader.name(): String = text(MAX_NAME)

/** Text of the chat layout. */
internal fun Reader.literal(): String = text(MAX_LITERAL)

internal fun Reader.tokenIds(): List<Int> = list(0, MAX_IDS) { it.int(0, Int.MAX_VALUE) }

internal fun Reader.fileName(): String {
    val name = text()
    if (!isFileName(name)) refuse("it is not a file name that a bundle may use")
    return name
}

internal fun Reader.sha256(): String {
    val digits = text()
    if (!SHA256.matches(digits)) refuse("it is not a SHA-256 in lower-case hexadecimal")
    return digits
}

/** An object by names of the file's own choice, each of at most 512 characters. */
internal fun <T> Reader.named(read: (Reader) -> T): Map<String, T> = entries { name, value ->
    checkLength(name, MAX_NAME)
    read(value)
}
