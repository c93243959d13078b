package dev.pocketvlm.bundle

/** The section `chat` of a manifest of this [format]. */
internal class ChatSection(private val format: Int) {
    fun read(value: Reader): ChatLayout {
        val of = value.members(
            "start", "roles", "default_system", "generation_prefix", "reasoning", "image", "text", "images_first",
            "system_joins", "strip_parts", "behind_images", "single_turn", "tools", "between",
        )
        of["roles"].members("system", "user", "assistant")
        of.given("tools")?.let(::checkTools)
        val read = ChatLayout(
            start = of["start"].literal(),
            roles = of["roles"].entries { _, role -> role(role) },
            defaultSystem = of["default_system"].takeUnless { it.value == null }?.literal(),
            generationPrefix = of["generation_prefix"].literal(),
            reasoning = of.inFormat3("reasoning", format)?.let(::reasoning),
            image = of.inFormat3("image", format)?.let(::around),
            text = of.inFormat3("text", format)?.let(::around),
            imagesFirst = flag(of, "images_first"),
            systemJoins = flag(of, "system_joins"),
            stripParts = flag(of, "strip_parts", since = 5),
            behindImages = of.inFormat5("behind_images", format)?.literal(),
            singleTurn = flag(of, "single_turn", since = 5),
            between = of.inFormat5("between", format)?.literal(),
        )
        if (read.behindImages != null && !read.imagesFirst) value.refuse("behind_images is of images that come first")
        return read
    }

    /** Texts of how tools are listed, called and answered, none of which is used here. */
    private fun checkTools(value: Reader) {
        if (format < 5) value.refuse("formats before 5 do not have it")
        val of = value.members("behind_system", "alone", "between", "behind", "functions", "calls", "results")
        for (key in listOf("alone", "between", "behind")) of[key].literal()
        of["behind_system"].takeUnless { it.value == null }?.literal()
        of["functions"].boolean()
        val calls = of["calls"].members("prefix", "behind_text", "middle", "between", "suffix")
        for (key in listOf("prefix", "behind_text", "middle", "between", "suffix")) calls[key].literal()
        val results = of["results"].members("prefix", "between", "suffix")
        for (key in listOf("prefix", "between", "suffix")) results[key].literal()
    }

    private fun role(value: Reader): Role {
        val of = value.members("prefix", "suffix", "strip", "prefix_with_image")
        val withImage = of.inFormat3("prefix_with_image", format)?.literal()
        return Role(of["prefix"].literal(), of["suffix"].literal(), of["strip"].boolean(), withImage)
    }

    private fun reasoning(value: Reader): Reasoning {
        val of = value.members("end", "trim")
        val read = Reasoning(of["end"].takeUnless { it.value == null }?.literal(), of["trim"].literal())
        if (read.end?.isEmpty() == true) value.refuse("its end is empty")
        return read
    }

    private fun around(value: Reader): Around {
        val of = value.members("prefix", "suffix")
        return Around(of["prefix"].literal(), of["suffix"].literal())
    }

    private fun flag(of: Members, key: String, since: Int = 3): Boolean {
        val given = of.optional(key) ?: return false
        val set = given.boolean()
        if (set && format < since) given.refuse("formats before $since do not have it")
        return set
    }
}
