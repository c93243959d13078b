package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.Reader
import dev.pocketvlm.bundle.Refused
import dev.pocketvlm.bundle.oneLine
import dev.pocketvlm.bundle.parseJson

/** Bytes; commas, which count the values before any is looked at; steps of one kind; characters of a text. */
internal const val MAX_TOKENIZER_BYTES: Long = 128L shl 20
private const val MAX_VALUES = 1 shl 22
private const val MAX_STEPS = 64
private const val MAX_TEXT = 1 shl 10

/** The parts of a `tokenizer.json`. */
internal class TokenizerParts(
    val model: Bpe,
    val vocabulary: Vocabulary,
    val added: List<AddedToken>,
    val normalize: List<Normalize>,
    val cuts: List<Cut>,
    /** null: tokens are joined by spaces */
    val decode: List<Decode>?,
    /** special tokens that the tokenizer itself puts before a text */
    val opening: String,
)

/**
 * Reads a `tokenizer.json` of Hugging Face's tokenizers. Vocabulary and merges never become objects of their own: a model
 * that has them twice is refused.
 *
 * @throws BundleDamaged it is none
 * @throws NotPortable it is of a kind that this library does not read, though another runtime does
 */
internal fun readTokenizer(content: ByteArray): TokenizerParts = partsOf(packTokenizer(content))

/** The parts of a file that was packed; errors as of [readTokenizer]. */
internal fun partsOf(packed: PackedTokenizer): TokenizerParts = damagedWhereRefused {
    TokenizerReader(Reader(parseJson(packed.rest)).fields()).read(packed)
}

/** What is read once of a file, and kept in a cache; errors as of [readTokenizer], of the model. */
internal fun packTokenizer(content: ByteArray): PackedTokenizer = damagedWhereRefused {
    if (content.size > MAX_TOKENIZER_BYTES || content.count { it == ','.code.toByte() } > MAX_VALUES) {
        throw Refused("", "it has more than $MAX_TOKENIZER_BYTES bytes or $MAX_VALUES values")
    }
    val sections = TokenizerSections(content)
    val model = TokenizerReader(Reader(parseJson(sections.rest)).fields()).model()
    sections.read(model["vocab"], model["merges"])
}

private fun <T> damagedWhereRefused(read: () -> T): T = try {
    read()
} catch (refused: Refused) {
    val key = if (refused.where.isEmpty()) "" else " at ${oneLine(refused.where)}"
    throw BundleDamaged("tokenizer.json is not valid$key: ${oneLine(refused.why, 160)}")
}

/** An object of which only some keys are read; null and a key left out are the same. */
internal class Fields(private val reader: Reader, private val values: Map<String, Reader>) {
    fun given(key: String): Reader? = values[key]?.takeUnless { it.value == null }

    operator fun get(key: String): Reader = given(key) ?: reader.missing(key)

    fun text(key: String): String = this[key].text(MAX_TEXT)

    fun flag(key: String, default: Boolean): Boolean = given(key)?.boolean() ?: default
}

internal fun Reader.fields(): Fields = Fields(this, entries { _, value -> value })

private class TokenizerReader(private val top: Fields) {
    fun read(packed: PackedTokenizer): TokenizerParts = TokenizerParts(
        bpe(model(), packed),
        packed.vocabulary,
        top.given("added_tokens")?.list(0, 1 shl 16, ::addedToken).orEmpty(),
        steps(top.given("normalizer"), "normalizers").map(::normalizer),
        steps(top.given("pre_tokenizer"), "pretokenizers").flatMap(::cuts),
        top.given("decoder")?.let { steps(it, "decoders").map(::decoder) },
        opening(top.given("post_processor")),
    )

    fun model(): Fields {
        val model = top["model"].fields()
        val kind = model.given("type")?.text() ?: if (model.given("merges") != null) "BPE" else "another model"
        if (kind != "BPE") portability("its model is $kind, not BPE")
        return model
    }

    private fun portability(why: String): Nothing = throw NotPortable("the tokenizer is not portable: $why")

    private fun bpe(model: Fields, packed: PackedTokenizer): Bpe {
        if ((model.given("dropout")?.number() ?: 0.0) != 0.0) portability("it drops merges at random")
        for (key in listOf("continuing_subword_prefix", "end_of_word_suffix")) {
            if (!model.given(key)?.text().isNullOrEmpty()) portability("its model has a $key")
        }
        val bytes = if (!model.flag("byte_fallback", false)) null else IntArray(256) { byte ->
            packed.vocabulary["<0x%02X>".format(java.util.Locale.ROOT, byte)] ?: portability("it has no token for each byte")
        }
        return Bpe(
            packed.vocabulary,
            packed.merges,
            model.given("unk_token")?.text(MAX_TEXT)?.let(packed.vocabulary::get),
            model.flag("fuse_unk", false),
            model.flag("ignore_merges", false),
            bytes,
        )
    }

    private fun addedToken(value: Reader): AddedToken {
        val of = value.fields()
        val isSpecial = of["special"].boolean()
        val content = of["content"].text(MAX_TEXT)
        if (of["single_word"].boolean() && !isSpecial) portability("it looks for whole words")
        if (content.isEmpty()) value.refuse("it is empty")
        val strips = listOf(of["lstrip"].boolean(), of["rstrip"].boolean())
        val id = of["id"].int(0, Int.MAX_VALUE)
        return AddedToken(id, content, strips[0], strips[1], of["normalized"].boolean(), isSpecial)
    }

    private fun steps(part: Reader?, several: String): List<Fields> {
        val of = part?.fields() ?: return emptyList()
        return if (of.text("type") == "Sequence") of[several].list(0, MAX_STEPS) { it.fields() } else listOf(of)
    }

    private fun normalizer(of: Fields): Normalize = when (val kind = of.text("type")) {
        "NFC" -> ::nfc
        "Prepend" -> prepend(of.text("prepend"))
        "Replace" -> {
            val from = literal(of)
            val to = of.text("content");
            { text -> text.replace(from, to) }
        }
        else -> portability("its normalizer is $kind")
    }

    /** What is looked for, where that is a text. */
    private fun literal(of: Fields): String {
        val text = of["pattern"].fields().given("String")?.text(MAX_TEXT) ?: portability("it replaces what a pattern finds")
        if (text.isEmpty()) portability("it replaces nothing")
        return text
    }

    private fun cuts(of: Fields): List<Cut> = when (val kind = of.text("type")) {
        "ByteLevel" -> {
            val prefix = of.flag("add_prefix_space", true)
            if (prefix) portability("its ByteLevel adds a space")
            listOfNotNull(if (of.flag("use_regex", true)) isolated(portablePattern(GPT2)) else null, byteLevel(prefix))
        }
        "Digits" -> listOf(isolated(categoryPattern(Categories.DIGITS, inRow = !of.flag("individual_digits", false))))
        "Metaspace" -> listOf(metaspace(of.text("replacement"), scheme(of), of.flag("split", true)))
        "Split" -> listOf(split(of))
        else -> portability("its pre-tokenizer is $kind")
    }

    private fun scheme(of: Fields): String {
        if (of.given("add_prefix_space")?.boolean() == false) return "never"
        return of.given("prepend_scheme")?.choice("first", "never", "always") ?: "always"
    }

    private fun split(of: Fields): Cut {
        val behavior = of.text("behavior")
        val pattern = of["pattern"].fields()
        if (of.flag("invert", false)) portability("it splits by what a pattern does not find")
        val regex = pattern.given("Regex")?.text(MAX_TEXT)
        val text = if (regex == null) literal(of) else ""
        return when {
            behavior == "Isolated" && regex != null -> isolated(portablePattern(regex))
            behavior == "Isolated" -> isolated(text)
            regex != null -> portability("it splits by a pattern, $behavior")
            behavior == "MergedWithPrevious" -> withPrevious(text)
            behavior == "MergedWithNext" -> withNext(text)
            else -> portability("it splits $behavior")
        }
    }

    private fun decoder(of: Fields): Decode = when (val kind = of.text("type")) {
        "ByteLevel" -> ::fromByteLevel
        "ByteFallback" -> ::fromByteTokens
        "Fuse" -> ::fused
        "Replace" -> replaced(literal(of), of.text("content"))
        "Strip" -> {
            if (of["stop"].int(0, 1024) != 0) portability("its decoder strips at the end")
            stripped(of.text("content"), of["start"].int(0, 1024))
        }
        "Metaspace" -> fromMetaspace(of.text("replacement"), scheme(of))
        else -> portability("its decoder is $kind")
    }

    private fun opening(part: Reader?): String {
        val of = steps(part, "processors").firstOrNull { it.text("type") != "ByteLevel" } ?: return ""
        if (of.text("type") != "TemplateProcessing") portability("its post-processor is ${of.text("type")}")
        val pieces = of["single"].list(0, MAX_STEPS) { it.fields().given("SpecialToken")?.fields() }
        return pieces.takeWhile { it != null }.joinToString("") { it!!.text("id") }
    }
}
