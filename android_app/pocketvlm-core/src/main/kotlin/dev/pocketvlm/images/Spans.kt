package dev.pocketvlm.images

/**
 * The last place of the cache that each token may see, of a prompt whose tokens are of the picture with that index, -1: of
 * text. [spans]: `none`, `image` (those of a run of image tokens see each other) or `prompt` (all do). Bounds never fall
 * (`pocketvlm.images.spans` of Python).
 */
internal fun lastSeenOf(pictures: IntArray, spans: String): IntArray {
    val found = IntArray(pictures.size)
    for (at in pictures.indices.reversed()) {
        val goesOn = pictures[at] >= 0 && at + 1 < pictures.size && pictures[at + 1] >= 0
        found[at] = when {
            spans == "prompt" -> pictures.size - 1
            spans == "image" && goesOn -> found[at + 1]
            else -> at
        }
    }
    return found
}

/** The first token of the span that [at] is in: from there on, it can be computed anew. */
internal fun beginOfSpan(lastSeen: IntArray, at: Int): Int {
    var begin = at
    while (begin > 0 && lastSeen[begin - 1] == lastSeen[at]) begin--
    return begin
}

/**
 * One past the last token of the chunk that begins at [first] and has at most [most] tokens, but no span in part: it ends
 * before one that it cannot take whole, and is longer where it begins with such a one.
 */
internal fun endOfChunk(lastSeen: IntArray, first: Int, most: Int): Int {
    val end = minOf(first + most, lastSeen.size)
    if (lastSeen[end - 1] < end) return end
    val begin = beginOfSpan(lastSeen, end - 1)
    return if (begin > first) begin else lastSeen[end - 1] + 1
}
