package dev.pocketvlm.text

/**
 * The bundle's `tokenizer.json`. The rule for encoding: literals of the chat layout and people's text are joined to one
 * string; special tokens are looked for in the literals only; what stands between them is encoded with special tokens
 * not recognized, as the continuation of what precedes it. [controls] are special whatever that file says of them.
 */
internal class TextTokenizer(private val parts: TokenizerParts, controls: Collection<Int> = emptyList()) {
    /** As the library decodes added tokens: with what its normalizer makes of them. */
    private val addedTexts = parts.added.associate { it.id to if (it.normalized) normalized(it.content) else it.content }
    private val specials: Map<String, AddedToken>
    private val raw: AddedTokens
    private val normal: AddedTokens
    private val specialTexts: Map<Int, String>

    init {
        val given = parts.added.filter { it.id in controls || it.isSpecial }
        val others = (controls - given.map { it.id }.toSet()).mapNotNull { id ->
            token(id)?.takeIf { it.isNotEmpty() }?.let { AddedToken(id, it, false, false, false, true) }
        }
        specials = (given + others).associateBy { it.content }
        specialTexts = specials.values.associate { it.id to it.content }
        val all = parts.added.map { token ->
            val isSpecial = token.id in specialTexts
            AddedToken(token.id, token.content, token.lstrip, token.rstrip, token.normalized, isSpecial)
        } + others
        raw = AddedTokens(all.filter { !it.normalized })
        normal = AddedTokens(all.filter { it.normalized }.map { token ->
            val content = normalized(token.content)
            AddedToken(token.id, content, token.lstrip, token.rstrip, true, token.isSpecial)
        }.filter { it.content.isNotEmpty() })
    }

    /** Token ids of joined text; images end a run before. [atStart]: it begins the prompt, else something precedes it. */
    fun encode(spans: List<Span>, atStart: Boolean = true): List<Int> {
        val ids = ArrayList<Int>()
        var run = ""
        var strip = false
        val endRun = {
            val text = if (strip) run.trimStart { it in WHITE_SPACE } else run
            if (text.isNotEmpty()) ids.addAll(encodePlain(text, atStart && ids.isEmpty()))
            run = ""
        }
        for (span in spans) when (span) {
            is Span.PeopleText -> run += wellFormed(span.text)
            is Span.Image -> error("images stand between runs of text")
            is Span.Literal -> for (piece in SpecialSplit.of(span.text, specials)) {
                if (piece is String) {
                    run += piece
                    continue
                }
                val special = piece as AddedToken
                if (special.lstrip) run = run.trimEnd { it in WHITE_SPACE }
                endRun()
                ids.add(special.id)
                strip = special.rstrip
            }
        }
        endRun()
        return ids
    }

    /** The special tokens that the tokenizer itself puts before a text, as text; often none. */
    val opening: String get() = parts.opening

    /** The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD. */
    fun decode(ids: List<Int>): String {
        val known = ids.mapNotNull(::token).filter { it !in specials }
        val decode = parts.decode ?: return known.joinToString(" ")
        return decode.fold(known) { texts, step -> step(texts) }.joinToString("")
    }

    /** What [decode] leaves out of a special token; empty for others. */
    fun specialText(id: Int): String = specialTexts[id].orEmpty()

    private fun token(id: Int): String? = addedTexts[id] ?: parts.vocabulary.token(id)

    private fun normalized(text: String): String = parts.normalize.fold(text) { shown, step -> step(shown) }

    private fun encodePlain(text: String, atStart: Boolean): List<Int> {
        val ids = ArrayList<Int>()
        var isFirst = atStart
        for (piece in raw.split(text)) {
            if (piece is AddedToken) {
                ids.add(piece.id)
            } else {
                for (inner in normal.split(normalized(piece as String))) {
                    if (inner is AddedToken) ids.add(inner.id)
                    else for (word in words(inner as String, isFirst)) ids.addAll(word.toList())
                    isFirst = false
                }
            }
            isFirst = false
        }
        return ids
    }

    private fun words(text: String, isFirst: Boolean): List<IntArray> {
        var pieces = listOf(text)
        for (cut in parts.cuts) pieces = pieces.flatMapIndexed { index, piece -> cut(piece, isFirst && index == 0) }
        return pieces.filter { it.isNotEmpty() }.map(parts.model::encode)
    }
}

/** A literal's special tokens: the one that begins first, and of those the longest. */
private object SpecialSplit {
    fun of(text: String, specials: Map<String, AddedToken>): List<Any> {
        val pieces = ArrayList<Any>()
        val longestFirst = specials.keys.sortedByDescending { it.length }
        var end = 0
        var at = 0
        while (at < text.length) {
            val found = longestFirst.firstOrNull { text.startsWith(it, at) }
            if (found == null) {
                at++
                continue
            }
            pieces.add(text.substring(end, at))
            pieces.add(specials.getValue(found))
            at += found.length
            end = at
        }
        pieces.add(text.substring(end))
        return pieces
    }
}
