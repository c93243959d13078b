package dev.pocketvlm.bundle

/** A value of JSON together with the way to it, which is spelled out only for an error. */
internal class Reader(val value: Any?, private val parent: Reader? = null, private val key: String = "") {
    fun refuse(why: String): Nothing = throw Refused(where(), why)

    private fun where(): String {
        val above = parent?.where() ?: return ""
        return if (above.isEmpty()) oneLine(key) else "$above.${oneLine(key)}"
    }

    /** A whole number of any size. */
    val isWhole: Boolean get() = value is Long || value is Huge

    fun boolean(): Boolean = value as? Boolean ?: refuse("it must be true or false")

    fun long(low: Long, high: Long): Long {
        val number = value as? Long
        if (number == null || number !in low..high) refuse("it must be a whole number from $low to $high")
        return number
    }

    fun int(low: Int, high: Int): Int = long(low.toLong(), high.toLong()).toInt()

    /** Finite; a whole number is one as well. */
    fun number(): Double = when (value) {
        is Long -> value.toDouble()
        is Huge -> value.digits.toDouble()
        is Double -> value
        else -> refuse("it must be a finite number")
    }

    fun number(low: Double, high: Double): Double {
        val number = number()
        if (number !in low..high) refuse("it must be a number from $low to $high")
        return number
    }

    /** Of so many characters (code points) at most. */
    fun text(most: Int = Int.MAX_VALUE): String {
        val text = value as? String ?: refuse("it must be a string")
        checkLength(text, most)
        return text
    }

    fun checkLength(text: String, most: Int) {
        if (text.codePointCount(0, text.length) > most) refuse("it has more than $most characters")
    }

    fun choice(vararg choices: String): String {
        val text = text()
        if (text !in choices) refuse("it must be one of ${choices.joinToString(", ")}")
        return text
    }

    /** A list whose elements [read] takes one by one. */
    fun <T> list(least: Int = 0, most: Int = Int.MAX_VALUE, read: (Reader) -> T): List<T> {
        val values = value as? List<*> ?: refuse("it must be a list")
        if (values.size !in least..most) refuse("it has ${values.size} elements")
        return values.mapIndexed { index, one -> read(Reader(one, this, index.toString())) }
    }

    /** What [read] makes of an object's values, by key, whatever the keys are. All values of a doubled key are read. */
    fun <T> entries(read: (String, Reader) -> T): Map<String, T> {
        val values = value as? JsonObject ?: refuse("it must be an object")
        return values.pairs.associate { (key, one) -> key to read(key, Reader(one, this, key)) }
    }

    /** An object's values by key; a key that is not among [keys] is refused. */
    fun members(vararg keys: String): Members {
        val values = entries { _, one -> one }
        values.entries.firstOrNull { it.key !in keys }?.value?.refuse("it is not known")
        return Members(this, values)
    }

    /** What a member that is missing is refused with. */
    fun missing(key: String): Nothing = Reader(null, this, key).refuse("it is missing")
}

/** The values of an object whose keys are known. */
internal class Members(private val reader: Reader, private val values: Map<String, Reader>) {
    /** @throws Refused where it is missing */
    operator fun get(key: String): Reader = values[key] ?: reader.missing(key)

    /** Null where it is left out. */
    fun optional(key: String): Reader? = values[key]

    /** Null where it is null or left out. */
    fun given(key: String): Reader? = values[key]?.takeUnless { it.value == null }

    /** What only format 3 says. */
    fun inFormat3(key: String, format: Int): Reader? {
        val given = given(key)
        if (given != null && format < 3) given.refuse("formats 1 and 2 do not have it")
        return given
    }

    /** What only format 5 says. */
    fun inFormat5(key: String, format: Int): Reader? {
        val given = given(key)
        if (given != null && format < 5) given.refuse("formats before 5 do not have it")
        return given
    }
}

/** The text as one line of printable characters, cut behind so many. */
internal fun oneLine(text: String, most: Int = 120): String {
    val printable = text.take(most).map { if (it < ' ' || it in '\u007f'..'\u009f') ' ' else it }.joinToString("")
    return if (text.length > most) "$printable ..." else printable
}

/** What an exception says, or else what it is called. */
internal fun oneLineOf(error: Throwable): String = oneLine(error.message ?: error.javaClass.simpleName, 160)
